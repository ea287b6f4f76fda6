"""A store of saved conversations that a disk, a crash or another program has damaged."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from rqchat.cli.exporting import export_text
from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.load import load_conversation
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.rescue import ask_store, repair
from rqchat.engine.conversations.search import search_sessions
from rqchat.engine.conversations.sessions import latest_session, list_sessions, read_turns
from rqchat.engine.events import Done
from rqchat.engine.inputs.documents import Document
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import RqchatError
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.recording import record

__all__ = ["DAMAGES", "damaged_store", "sound_store", "try_one"]

_SAMPLING = SamplingSettings()
_VALUES = (None, "", "?", "{}", "[1]", '{"seed": 1}', b"\xff\xfe", -1, 2**62, 1e300, float("nan"))
_COLUMNS = {
    "sessions": ("id", "name", "title", "origin", "model", "system", "created_s", "updated_s"),
    "turns": ("session_id", "number", "asked_s", "question", "answer", "state", "receipt"),
    "contents": ("hash", "data"),
    "attachments": ("turn_id", "kind", "name", "hash", "size_bytes"),
}


@cache
def sound_store() -> bytes:
    """The file of a store with six conversations of some turns and documents."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "conversations.db"
        recorder = Recorder(path, "chat", lambda warning: None)
        session = FakeSession()
        for number in range(6):
            recorder.forget()
            session.clear()
            for turn in range(3):
                session.script = [f"Answer {number}.{turn} " + "word " * 60 * turn]
                documents = (Document(f"book{number}.txt", f"Call me {number}. " * 300),)
                asked = UserTurn(f"Question {number}.{turn}", documents=documents * (turn == 1))
                list(record(recorder, session, asked, _SAMPLING))
        recorder.close()
        return path.read_bytes()


def _flip(path: Path, rng: random.Random) -> None:
    """Some bytes anywhere."""
    data = bytearray(path.read_bytes() or b"\0")  # another damage may have left nothing
    for _ in range(rng.choice((1, 5, 50, 500))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)


def _overwrite(path: Path, rng: random.Random) -> None:
    """Whole pages, the first one among them."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 2, 4))):
        begin = 4096 * rng.randrange(len(data) // 4096 + 1)
        size = rng.choice((16, 100, 512, 4096))
        data[begin : begin + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    path.write_bytes(data)


def _header(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.randrange(min(100, len(data)))] = rng.randrange(256)
    path.write_bytes(data)


def _cut(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size + 1))


def _replace(path: Path, rng: random.Random) -> None:
    path.write_bytes(
        rng.choice((b"", b"no database" * 999, rng.randbytes(9000), b"SQLite format 3\0"))
    )


def _log(path: Path, rng: random.Random) -> None:
    path.with_name(path.name + "-wal").write_bytes(rng.randbytes(rng.choice((1, 31, 5000))))


def _value(path: Path, rng: random.Random) -> None:
    """Values that SQLite takes and we never wrote."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for _ in range(rng.choice((1, 3))):
            table = rng.choice(list(_COLUMNS))
            column, value = rng.choice(_COLUMNS[table]), rng.choice(_VALUES)
            with suppress(sqlite3.Error):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, rng.randint(1, 6))
                )
        connection.commit()


def _schema(path: Path, rng: random.Random) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        names = ("sessions", "turns", "contents", "words", "words_data", "turn_added")
        change = rng.choice(
            ("sql = 'CREATE T\xc4BLE'", "rootpage = 99", "sql = CAST(x'ff' AS TEXT)")
        )
        connection.execute(
            f"UPDATE sqlite_schema SET {change} WHERE name = ?", (rng.choice(names),)
        )
        if rng.random() < 0.2:
            connection.execute("DELETE FROM sqlite_schema WHERE name = ?", (rng.choice(names),))
        connection.commit()


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(_flip, _overwrite, _header, _cut, _replace, _log, _value, _schema),
)


def damaged_store(rng: random.Random, folder: Path) -> Path:
    """A store in `folder` with a damage or two."""
    path = folder / "conversations.db"
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    path.write_bytes(sound_store())
    for damage in rng.sample(DAMAGES, rng.choice((1, 1, 2))):
        with suppress(sqlite3.Error, UnicodeError, ValueError):
            damage(path, rng)
    return path


def try_one(rng: random.Random, folder: Path) -> None:
    """An answer comes whatever the store is; all that reads the store answers or says why not."""
    path = damaged_store(rng, folder)
    warnings: list[str] = []
    recorder = Recorder(path, "ask", warnings.append)
    events = list(record(recorder, FakeSession(), UserTurn("One"), _SAMPLING))
    recorder.close()
    assert isinstance(events[-1], Done) and len(warnings) < 2
    questions: tuple[Callable[[Database], object], ...] = (
        list_sessions,
        lambda store: [read_turns(store, each.id) for each in list_sessions(store)],
        lambda store: search_sessions(store, "word"),
        lambda store: [export_text(store, each, "json") for each in list_sessions(store)],
        lambda store: (last := latest_session(store)) and load_conversation(store, last),
    )
    for question in questions:
        with suppress(RqchatError):
            ask_store(path, question, warnings.append)
    repair(path)
    for question in questions:  # now nothing is left to be said
        with Database.open(path) as database:
            question(database)
    assert repair(path).is_whole
