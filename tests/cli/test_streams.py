"""Standard streams that whoever started the program has closed, or that lead to a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_store_processes import PROGRAM, ROOT


def shell(line: str, data: Path) -> subprocess.CompletedProcess[str]:
    """Runs `line`, in which `rqchat` is the program without a model."""
    function = f'rqchat() {{ {sys.executable} -c "$PROGRAM" "$@"; }}'
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
        "PYTHONUNBUFFERED": "",
        "XDG_DATA_HOME": str(data),
        "XDG_CONFIG_HOME": "/nonexistent",
        "PROGRAM": PROGRAM,
    }
    return subprocess.run(
        ["bash", "-c", f"{function}; {line}"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_without_standard_error_the_answer_comes(tmp_path: Path, where: str) -> None:
    done = shell(f"rqchat ask --no-log --stats Hello {where}", tmp_path)
    assert (done.returncode, len(done.stdout.split())) == (0, 200)


@pytest.mark.parametrize(
    ("words", "code"), [("ask Hello --truncate tail -f README.md", 0), ("ask --bogus", 2)]
)
def test_a_full_standard_error_changes_no_exit_code(tmp_path: Path, words: str, code: int) -> None:
    """Unbuffered, where even writing nothing fails."""
    done = shell(f"export PYTHONUNBUFFERED=1; rqchat {words} 2>/dev/full", tmp_path)
    assert (done.returncode, len(done.stdout.split())) == (code, 0 if code else 200)


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (">&-", "rqchat: standard output is closed, so nothing can be answered"),
        (">/dev/full", "rqchat: the output cannot be written: No space left on device"),
    ],
)
def test_without_standard_output_there_is_a_sentence(
    tmp_path: Path, where: str, sentence: str
) -> None:
    done = shell(f"rqchat ask Hello --json {where}", tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, sentence)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", ["--help", "ask --json Hello", "plan --vram 24GiB"])
def test_a_reader_that_is_gone_is_no_failure(tmp_path: Path, words: str) -> None:
    done = shell(f"(rqchat {words}; echo $? >&2) | true", tmp_path)
    assert done.stderr.splitlines() == ["0"]


def test_without_standard_input_the_question_is_enough(tmp_path: Path) -> None:
    done = shell("rqchat ask --no-log Hello <&-", tmp_path)
    assert (done.returncode, len(done.stdout.split())) == (0, 200)
