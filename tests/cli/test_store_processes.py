"""Saving as processes see it: several at once, a full disk, a home that cannot be written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.records import TurnRecord
from rqchat.engine.conversations.sessions import list_sessions, read_turns

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import contextlib, os, sys
from tests.cli.fake_session import FakeSession
from rqchat.cli import app, open_session
fake = FakeSession([f"word{number} " for number in range(200)])
open_session.open_session = lambda *given: fake
if sys.argv[1] == "as-nobody":
    with contextlib.suppress(SystemExit):
        app.main(["ask", "--no-log", "--max-tokens", "1", "All is imported now"])
    if os.geteuid() == 0:
        os.seteuid(65534)
    del sys.argv[1]
app.main(sys.argv[1:])
"""


def start(
    *words: str,
    data: Path,
    before: Callable[[], None] | None = None,
) -> subprocess.Popen[str]:
    """`rqchat WORDS`, over a session without a model."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_DATA_HOME": str(data),
        "XDG_CONFIG_HOME": "/nonexistent",
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def saved(data: Path) -> list[TurnRecord]:
    """The turns of all conversations, as another process reads them."""
    with Database.open(data / "rqchat/conversations.db") as database:
        return [turn for each in list_sessions(database) for turn in read_turns(database, each.id)]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    running = [start("ask", f"Question {number}", data=tmp_path) for number in range(4)]
    answers = [finish(process) for process in running]
    assert [(code, len(out.split())) for code, out, _ in answers] == [(0, 200)] * 4
    assert {turn.question: turn.answer.strip() for turn in saved(tmp_path)} == {
        f"Question {number}": out.strip() for number, (_, out, _) in enumerate(answers)
    }


@pytest.mark.parametrize("limit_bytes", [0, 100_000])
def test_a_full_disk_costs_no_answer(tmp_path: Path, limit_bytes: int) -> None:
    """No file may grow beyond the limit: not at all, or not by the document."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    (tmp_path / "book.txt").write_text(os.urandom(400).hex() * 400)
    book = ("-f", str(tmp_path / "book.txt"))
    code, out, err = finish(start("ask", "--quiet", *book, "One", data=tmp_path, before=limit))
    assert (code, len(out.split())) == (0, 200)
    assert err.count("\n") == 1 and err.startswith("this conversation is not being saved: ")
    # With space on the disk again all is well
    assert finish(start("ask", "--quiet", "Two", data=tmp_path))[0::2] == (0, "")
    assert "Two" in [turn.question for turn in saved(tmp_path)]


def test_on_a_full_disk_what_is_saved_can_still_be_read(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    assert finish(start("ask", "--quiet", "One", data=tmp_path))[0] == 0
    code, out, err = finish(start("sessions", "list", data=tmp_path, before=limit))
    assert (code, err) == (0, "") and out.endswith("\tOne\n")
    id_ = out.split("\t")[0]
    code, out, err = finish(start("ask", "-c", "--quiet", "Two", data=tmp_path, before=limit))
    assert (code, len(out.split()), err.count("\n")) == (0, 200, 1)
    copy = tmp_path / "copy.md"
    exported = start("sessions", "export", id_, "-o", str(copy), data=tmp_path, before=limit)
    code, _, err = finish(exported)
    assert (code, copy.exists()) == (1, False)  # half a file would be in the way of the next try
    assert err.startswith(f"rqchat: {copy} cannot be written: ")
    assert finish(start("sessions", "export", id_, "-o", str(copy), data=tmp_path))[0] == 0
    assert "word199" in copy.read_text()


def test_a_home_that_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o555)
    code, out, err = finish(start("as-nobody", "ask", "--quiet", "One", data=data))
    assert (code, len(out.split())) == (0, 400), err
    assert err.count("\n") == 1 and "cannot be used: Permission denied" in err
