"""docs/cli.md against the help it is made from, and completion in three shells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rqchat.cli.manual import manual_page
from tests.cli.conftest import Run

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_help_says() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert page == manual_page(), "run: python -m rqchat.cli.manual > docs/cli.md"


@pytest.mark.parametrize(
    ("shell", "variables"),
    [
        ("bash", {"COMP_WORDS": "rqchat {0}", "COMP_CWORD": "{1}"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "rqchat {0}"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "rqchat {0}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
@pytest.mark.parametrize(
    ("typed", "offered"), [("pla", "plan"), ("ask --kv", "--kv-bits"), ("config e", "edit")]
)
def test_a_word_is_completed(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    shell: str,
    variables: dict[str, str],
    typed: str,
    offered: str,
) -> None:
    monkeypatch.setenv("_RQCHAT_COMPLETE", f"complete_{shell}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(typed, len(typed.split())))
    assert offered in run().out


def test_values_are_completed_and_presets_among_them(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text("[presets.exact]\n[presets.long]\n")
    monkeypatch.setenv("RQCHAT_CONFIG", str(tmp_path / "c.toml"))
    monkeypatch.setenv("_RQCHAT_COMPLETE", "complete_bash")

    def offered(typed: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", f"rqchat {typed}")
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
        return run().out.split()

    assert offered("ask --weights int") == ["int8", "int4", "int3", "int2", "int8-bnb"]
    assert offered("ask --kv-bits 1") == ["16"]
    assert offered("ask --preset e") == ["exact"]
    (tmp_path / "c.toml").write_text("broken")
    assert offered("ask --preset e") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell_names_the_program(
    run: Run, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("_RQCHAT_COMPLETE", f"source_{shell}")
    script = run().out
    assert f"_RQCHAT_COMPLETE=complete_{shell}" in script
    assert "rqchat" in script


def test_bash_itself_completes(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("_RQCHAT_COMPLETE", "source_bash")
    (tmp_path / "script").write_text(run().out)
    monkeypatch.delenv("_RQCHAT_COMPLETE")
    program = tmp_path / "rqchat"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m rqchat "$@"\n')
    program.chmod(0o755)
    typed = "COMP_WORDS=(rqchat doc); COMP_CWORD=1; _rqchat_completion rqchat; echo $COMPREPLY"
    path = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
    }
    done = subprocess.run(
        ["bash", "-c", f"source {tmp_path}/script; {typed}"],
        capture_output=True,
        text=True,
        env=os.environ | path,
    )
    assert done.stdout == "doctor\n", done.stderr
