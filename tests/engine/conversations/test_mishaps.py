"""A store that cannot be written: reported once, and caught up with."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest

from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.inputs.documents import Document
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.conftest import SAMPLING, Case, Say, load, turns
from tests.engine.conversations.recording import record


def test_without_a_path_nothing_is_written_until_one_is_given(
    path: Path, session: FakeSession
) -> None:
    recorder = Recorder(None, "chat", pytest.fail)
    list(record(recorder, session, UserTurn("One"), SAMPLING))
    assert (recorder.session_id, path.parent.exists()) == (None, False)
    assert recorder.keep_in(path) == recorder.session_id
    recorder.close()
    with Database.open(path) as database:
        assert load(database, recorder.session_id).messages == session.messages


def test_a_saved_conversation_goes_on_unsaved_until_a_path_is_given(
    path: Path, database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    saved = load(database, recorder.session_id)
    unsaved = Recorder(None, "chat", pytest.fail)
    unsaved.adopt(saved)
    list(record(unsaved, session, UserTurn("Two"), SAMPLING))
    assert unsaved.session_id is None
    assert [turn.question for turn in turns(database, saved.record.id)] == ["One"]
    assert unsaved.keep_in(path) == saved.record.id
    unsaved.close()
    assert [turn.question for turn in turns(database, saved.record.id)] == ["One", "Two"]


def test_a_full_disk_is_reported_once_and_caught_up_with(case: Case) -> None:
    _, database, recorder, session, say, warnings = case
    say("One")
    assert recorder._database is not None
    limit = recorder._database._connection.execute
    pages = limit("PRAGMA page_count").fetchone()[0]
    limit(f"PRAGMA max_page_count = {pages}")
    incompressible = "".join(chr(0x4E00 + (i * i * 7919) % 20_000) for i in range(50_000))
    say(UserTurn("Two", documents=(Document("big.txt", incompressible),)))
    say("Three")
    assert len(warnings) == 1
    assert warnings[0].endswith("rqchat cache clear") and "disk is full" in warnings[0]
    assert [turn.question for turn in turns(database, recorder.session_id)] == ["One"]
    limit(f"PRAGMA max_page_count = {pages + 10_000}")
    say("Four")
    assert load(database, recorder.session_id).messages == session.messages
    assert [turn.state for turn in turns(database, recorder.session_id)] == ["complete"] * 4
    assert len(warnings) == 1


def test_a_store_that_cannot_be_opened_is_reported_once(
    tmp_path: Path, session: FakeSession
) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    said: list[str] = []
    recorder = Recorder(tmp_path / "data" / "sessions.db", "chat", said.append)
    for question in ("One", "Two"):
        events = list(record(recorder, session, UserTurn(question), SAMPLING))
        assert len(events) == 4
    recorder.close()
    assert len(said) == 1 and said[0].startswith("this conversation is not being saved: ")


def test_a_store_damaged_meanwhile_is_reported_once(
    path: Path, recorder: Recorder, session: FakeSession, say: Say, warnings: list[str]
) -> None:
    say("One")
    recorder.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    say("Two")
    say("Three")
    assert len(warnings) == 1 and "is damaged" in warnings[0]
    assert len(session.messages) == 6


def test_a_store_that_is_busy_for_long_is_caught_up_with(case: Case) -> None:
    path, database, recorder, session, say, warnings = case
    say("One")
    assert recorder._database is not None
    recorder._database._connection.execute("PRAGMA busy_timeout = 1")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        say("Two")
        other.execute("ROLLBACK")
    other.close()
    assert len(warnings) == 1 and "is being written by another program" in warnings[0]
    recorder.close()
    assert load(database, recorder.session_id).messages == session.messages


def test_the_signal_of_a_file_too_large_does_not_end_the_process() -> None:
    """Python ignores it, so that a quota shows as an error; `Recorder` relies on that."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
