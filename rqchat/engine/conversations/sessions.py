"""The sessions of a store: listed, found, named, removed. No pillow is loaded for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rqchat.engine.conversations.database import Database, plain
from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.records import Attachment, SessionRecord, TurnRecord
from rqchat.engine.conversations.sound_rows import checked
from rqchat.errors import InputError, UsageError

__all__ = [
    "count_sessions",
    "find_session",
    "latest_session",
    "list_sessions",
    "old_sessions",
    "read_turns",
    "remove_sessions",
    "rename_session",
]

_COLUMNS = ", ".join(f"sessions.{field.name}" for field in fields(SessionRecord))
_MOST_NAMED = 8


def list_sessions(database: Database, limit: int | None = None) -> tuple[SessionRecord, ...]:
    """Sessions from the newest to the oldest, at most `limit`.

    Raises:
        StoreError: the store cannot be read.
    """
    return _select(database, "ORDER BY updated_s DESC LIMIT ?", (-1 if limit is None else limit,))


def count_sessions(database: Database) -> int:
    """How many there are.

    Raises:
        StoreError: the store cannot be read.
    """
    with database.read() as connection:
        count: int = connection.execute("SELECT count(*) FROM sessions").fetchone()[0]
    return count


def latest_session(database: Database) -> SessionRecord | None:
    """The one that was used last.

    Raises:
        StoreError: the store cannot be read.
    """
    return next(iter(list_sessions(database, 1)), None)


def find_session(database: Database, reference: str) -> SessionRecord:
    """The session that `reference` means: an id, a name, or the beginning of one of them.

    Raises:
        InputError: none is called so, or several are; the sentence lists them.
        StoreError: the store cannot be read.
    """
    reference = plain(reference)
    start = reference.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    # A whole id, and then a whole name, is meant before beginnings of longer ones.
    for where, value in (
        ("id = lower(:it)", reference),
        ("name = :it", reference),
        ("id LIKE :it ESCAPE '\\' OR name LIKE :it ESCAPE '\\'", start),
    ):
        found = _select(database, f"WHERE {where} ORDER BY updated_s DESC", {"it": value})
        # No word at all is the beginning of every id, and means none.
        if len(found) == 1 and reference:
            return found[0]
        if len(found) > 1:
            raise InputError(_ambiguous(reference, found))
    raise InputError(f"there is no conversation {reference!r}; list them: rqchat sessions list")


def read_turns(database: Database, session_id: str) -> tuple[TurnRecord, ...]:
    """All turns of a session in order, without the content of what was attached.

    Raises:
        StoreError: the store cannot be read.
    """
    with database.read() as connection:
        attached = connection.execute(
            "SELECT turn_id, kind, attachments.name, hash, size_bytes FROM attachments"
            " JOIN turns ON turns.id = turn_id WHERE session_id = ? ORDER BY turn_id, position",
            (session_id,),
        ).fetchall()
        rows = connection.execute(
            "SELECT id, number, asked_s, question, thought, answer, state, receipt FROM turns"
            " WHERE session_id = ? ORDER BY number",
            (session_id,),
        ).fetchall()
    return tuple(_turn(row, attached) for row in rows)


def rename_session(database: Database, session_id: str, name: str | None) -> None:
    """Gives a session a name of its own; None takes it away.

    Raises:
        UsageError: the name is empty, or another session's.
        StoreError: the store cannot be written.
    """
    if name is not None and not name.strip():
        raise UsageError("a name needs at least one letter")
    cleaned = plain(name.strip()) if name else None
    with database.write() as connection:
        taken = connection.execute(
            "SELECT id FROM sessions WHERE name = ? AND id != ?", (cleaned, session_id)
        ).fetchone()
        if taken:
            raise UsageError(f"conversation {taken[0]} is called {cleaned!r}; take another name")
        connection.execute("UPDATE sessions SET name = ? WHERE id = ?", (cleaned, session_id))


def old_sessions(
    database: Database, *, older_than_s: float | None, keep: int | None
) -> tuple[SessionRecord, ...]:
    """Sessions without a name that were last used `older_than_s` ago or more, or that are not among
    the `keep` newest of them; both together where both are given.

    Raises:
        StoreError: the store cannot be read.
    """
    unnamed = _select(database, "WHERE name IS NULL ORDER BY updated_s DESC", ())
    latest_s = time.time() - older_than_s if older_than_s is not None else float("inf")
    return tuple(session for session in unnamed[keep or 0 :] if session.updated_s <= latest_s)


def remove_sessions(database: Database, ids: Iterable[str]) -> bool:
    """Removes sessions, and documents and pictures that only they had.

    Whether no trace stays: on a disk that is nearly full, words stay in the search index until the
    next removal.

    Raises:
        StoreFullError: the disk has no space for the log of it.
        StoreError: the store cannot be written.
    """
    with database.write() as connection:
        # Turns and attachments go along (ON DELETE CASCADE); contents may belong to others, too.
        connection.executemany("DELETE FROM sessions WHERE id = ?", [(each,) for each in ids])
        connection.execute("DELETE FROM contents WHERE hash NOT IN (SELECT hash FROM attachments)")
    return database.erase_traces()


def _select(
    database: Database, clause: str, values: Sequence[object] | Mapping[str, object]
) -> tuple[SessionRecord, ...]:
    with database.read() as connection:
        rows = connection.execute(f"SELECT {_COLUMNS} FROM sessions {clause}", values).fetchall()
    return tuple(checked(SessionRecord, row) for row in rows)


def _turn(row: tuple[Any, ...], attached: list[tuple[Any, ...]]) -> TurnRecord:
    row_id, number, asked_s, question, thought, answer, state, receipt = row
    items = tuple(checked(Attachment, item[1:]) for item in attached if item[0] == row_id)
    receipt = Receipt.from_json(receipt)
    values = (row_id, number, asked_s, question, thought, answer, state, receipt, items)
    return checked(TurnRecord, values)


def _ambiguous(reference: str, found: Sequence[SessionRecord]) -> str:
    named = [f"{session.id} ({session.label})" for session in found[:_MOST_NAMED]]
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return f"{reference!r} means several conversations: {', '.join(named)}{more}; give more of it"
