"""The program as a process: start-up, versions, typos, closed pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rqchat import __version__
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "prompt_toolkit", "PIL", "huggingface_hub")


def process(*arguments: str, code: str = "from rqchat.cli.app import main; main()") -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "NO_COLOR": "1"}


IMPORTS = f"""
import sys
from rqchat.cli.app import main

def loaded(*arguments):
    try:
        main(arguments)
    except SystemExit:
        pass
    print("loaded:", *(name for name in {HEAVY!r} if name in sys.modules))

for arguments in (["--help"], ["--version"], ["ask", "--help"], ["sak"]):
    loaded(*arguments)
loaded("plan", "--vram", "24GiB")
import rqchat.cli.chat.run, rqchat.ui.editor.line_editor
loaded("--version")
"""


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    """One process all the way: what is loaded once stays, so the last line holds for all."""
    done = subprocess.run(
        process(code=IMPORTS), env=environment(), capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert lines[:4] == ["loaded:"] * 4
    assert len(lines) == 6
    assert not any(name in line for line in lines for name in ("torch", "transformers", "numpy"))


def test_version(run: Run) -> None:
    assert run("--version").out == f"rqchat {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aks"], "No such command 'aks'. Did you mean 'ask'"),
        (["run", "gemma", "hello"], "a chat: rqchat; one answer: rqchat ask"),
        (["What is a cat?"], "command 'What is a cat?'; one answer: rqchat ask \"QUESTION\""),
        (["ask", "what", "is", "a", "cat"], "a question of several words stands in quotes"),
        (["ask", "--ctx-size", "9", "x"], "there is no --ctx-size: it is called --context"),
        (["ask", "-p", "x"], 'the question stands by itself: rqchat ask "QUESTION"'),
        (["sessions", "ls"], "('rqchat sessions --help' explains)"),
        (["docter"], "Did you mean 'doctor'"),
        (["--modle", "x"], "--model"),
        (["plan", "--vrma", "1GB"], "('rqchat plan --help' explains)"),
        (["plan", "--vram", "lots"], "--vram is 'lots'; write a size such as 24GiB"),
        (["plan", "--vram", "24b"], "--vram is '24b', which is 24 bytes; write such as 24GiB"),
        (["plan", "--vram", "0GB"], "which is 0 bytes; write such as 24GiB"),
        (["--model", "m", "ask", "x"], "stand after it: rqchat ask --option"),
        (["--offline", "doctor"], "stand after it: rqchat doctor --option"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(run: Run, arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["ask"], ["plan"], ["doctor"], ["sessions", "list"], ["config"]]
)
def test_flags_show_no_type_in_the_help(run: Run, arguments: list[str]) -> None:
    result = run(*arguments, "--help")
    assert result.code == 0
    assert "--help" in result.out
    assert "bool" not in result.out


def test_names_in_errors_cannot_drive_the_terminal(run: Run, session: FakeSession) -> None:
    result = run("ask", "-f", "\x1b]0;title\x07evil.txt", "x")
    assert result.code == 1
    assert "evil.txt does not exist" in result.err
    assert "\x1b" not in result.err
