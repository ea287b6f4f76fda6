"""The file: its format, its permissions, and what is said where it cannot be used."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from rqchat.engine.conversations import database as database_module
from rqchat.engine.conversations.database import MIGRATIONS, Database
from rqchat.engine.conversations.sessions import count_sessions
from rqchat.errors import StoreError
from tests.engine.conversations.conftest import Say


def _format(path: Path) -> int:
    """The format number as the file's header has it (SQLite file format, bytes 60 to 63)."""
    return int.from_bytes(path.read_bytes()[60:64], "big")


def test_a_new_store_is_of_todays_format_and_its_owners_alone(path: Path) -> None:
    with Database.open(path):
        modes = [file.stat().st_mode & 0o777 for file in path.parent.iterdir()]
        assert len(modes) == 3  # with the log and its index
        assert set(modes) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert _format(path) == len(MIGRATIONS) == 1


def test_an_older_store_moves_up_and_keeps_what_it_has(path: Path, say: Say) -> None:
    say("Hello")
    further = (*MIGRATIONS, ("ALTER TABLE sessions ADD COLUMN colour TEXT DEFAULT 'red'",))
    with Database.open(path, migrations=further) as database, database.read() as connection:
        assert connection.execute("SELECT title, colour FROM sessions").fetchall() == [
            ("Hello", "red")
        ]
    with Database.open(path, migrations=further):
        pass  # and only once


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    with Database.open(path):
        pass
    broken = (*MIGRATIONS, ("CREATE TABLE more (x)", "no such statement"))
    with pytest.raises(StoreError):
        Database.open(path, migrations=broken)
    with Database.open(path) as database, database.read() as connection:
        names = connection.execute("SELECT name FROM sqlite_schema").fetchall()
    assert ("more",) not in names


def test_a_newer_store_is_refused_and_left_as_it_is(path: Path, say: Say) -> None:
    say("Hello")
    with Database.open(path, migrations=(*MIGRATIONS, ("CREATE TABLE more (x)",))):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer rqchat \(format 2, this one knows 1\)"):
        Database.open(path)
    assert path.read_bytes() == before


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()


def _noise(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_foreign, "belongs to another program"),
        (_noise, "is damaged"),
        (_folder, "cannot be used: Is a directory"),
    ],
)
def test_what_is_no_store_is_refused_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=sentence):
        Database.open(path)
    assert not path.is_file() or path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="cannot be used"):
        Database.open(tmp_path / "data" / "sessions.db")


def test_a_store_that_may_only_be_read_can_be(
    path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("Hello")
    # os.access alone: the superuser, whom tests may run as, may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with Database.open(path) as database:
        assert count_sessions(database) == 1
        with pytest.raises(StoreError, match="read-only"), database.write() as connection:
            connection.execute("DELETE FROM sessions")


def test_one_who_makes_the_store_at_the_same_moment_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writes after this one has seen an empty file: SQLite itself does not wait then."""
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    end = threading.Timer(0.3, other.execute, ["ROLLBACK"])

    class Meeting(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
            if "journal_mode" in sql and not other.in_transaction and end.ident is None:
                other.execute("BEGIN IMMEDIATE")
                end.start()
            return super().execute(sql, *rest)

    connect = functools.partial(sqlite3.connect, factory=Meeting)
    monkeypatch.setattr(sqlite3, "connect", connect)
    with Database.open(path) as database:
        assert end.ident is not None and count_sessions(database) == 0
    end.join()
    other.close()


def test_a_store_that_stays_locked_while_it_is_made_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    monkeypatch.setattr(database_module, "_WAIT_S", 0.1)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="is being written by another program"):
            Database.open(path)
    other.close()


class _Slow(sqlite3.Connection):
    """Statements far enough apart that those of several processes mix."""

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        time.sleep(random.uniform(0.0, 0.003))
        return super().execute(sql, *rest)


def _open_many(folder: str, count: int, meeting: Barrier, faults: SimpleQueue[str]) -> None:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=_Slow))
    for number in range(count):
        meeting.wait(60)
        try:
            Database.open(Path(folder) / str(number) / "sessions.db").close()
        except StoreError as error:
            faults.put(str(error))
    faults.put("")


def test_processes_that_make_the_store_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    fresh, count, rounds = multiprocessing.get_context("spawn"), 4, 10
    meeting, faults = fresh.Barrier(count), fresh.SimpleQueue()
    work = (str(tmp_path), rounds, meeting, faults)
    processes = [fresh.Process(target=_open_many, args=work) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    assert [faults.get() for _ in processes] == [""] * count
    for number in range(rounds):
        with Database.open(tmp_path / str(number) / "sessions.db") as database:
            assert count_sessions(database) == 0
