"""Rows as they should be: whether one is, and what of it goes into a new store."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_args

from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.records import (
    AttachmentKind,
    Origin,
    SessionRecord,
    TurnState,
    short_title,
)
from rqchat.engine.conversations.value_types import LATEST_S, fits
from rqchat.errors import DamagedStoreError

__all__ = ["TABLES", "checked", "keep_row"]

R = TypeVar("R")

# Those that others refer to come first
TABLES: Mapping[str, tuple[str, ...]] = {
    "sessions": tuple(field.name for field in fields(SessionRecord)),
    "turns": (
        *("id", "session_id", "number", "asked_s", "question", "attached"),
        *("thought", "answer", "state", "receipt"),
    ),
    "contents": ("hash", "data"),
    "attachments": ("turn_id", "position", "kind", "name", "hash", "size_bytes"),
}
_WORDS = {"Origin": Origin, "TurnState": TurnState, "AttachmentKind": AttachmentKind}
_TURN = ("int", "str", "int", "float", "str", "str", "str", "str", "str", "str")
_ATTACHMENT = ("int", "int", "AttachmentKind", "str", "str", "int")


def checked(kind: type[R], row: Sequence[Any]) -> R:
    """The record of a row.

    Raises:
        DamagedStoreError: a value is none that was ever written.
    """
    for field, value in zip(fields(kind), row, strict=True):  # type: ignore[arg-type]
        if not _is_written(str(field.type), value):
            raise DamagedStoreError(f"a saved conversation is damaged: {field.name} is {value!r}")
    return kind(*row)


def keep_row(connection: sqlite3.Connection, table: str, row: Sequence[Any]) -> bool:
    """Adds the row of a damaged store to a new one, unless that has it; whether it was sound.

    A turn whose receipt is lost keeps its words; one whose session is lost gets another session.
    """
    match table:
        case "sessions":
            return _keep_session(connection, row)
        case "turns":
            return _keep_turn(connection, row)
        case "contents":
            is_sound = _is_content(*row)
        case _:
            is_sound = all(map(_is_written, _ATTACHMENT, row)) and row[2] in get_args(
                AttachmentKind
            )
    if is_sound:
        try:
            _insert(connection, table, TABLES[table], row)
        except sqlite3.IntegrityError:  # of a turn or a content that is lost
            return False
    return is_sound


def _keep_session(connection: sqlite3.Connection, row: Sequence[Any]) -> bool:
    try:
        record = checked(SessionRecord, row)
    except DamagedStoreError:
        return False
    taken = connection.execute("SELECT 1 FROM sessions WHERE name = ?", (record.name,)).fetchone()
    values = [None if taken and name == "name" else getattr(record, name) for name in _SESSION]
    _insert(connection, "sessions", _SESSION, values)
    return True


def _keep_turn(connection: sqlite3.Connection, row: Sequence[Any]) -> bool:
    _, session_id, _, asked_s, question, *_, state, text = row
    if not all(map(_is_written, _TURN, row)) or state not in get_args(TurnState):
        return False
    try:
        receipt, is_sound = Receipt.from_json(text), True
    except DamagedStoreError:
        receipt, is_sound = Receipt.lost(), False
    _insert(
        connection,
        "sessions",
        ("id", "title", "origin", "model", "created_s", "updated_s"),
        (session_id, short_title(question), "chat", receipt.model, asked_s, asked_s),
    )
    _insert(connection, "turns", TABLES["turns"], [*row[:-2], state, receipt.to_json()])
    return is_sound


# `turns` is counted anew as they come
_SESSION = tuple(name for name in TABLES["sessions"] if name != "turns")


def _insert(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], values: Sequence[Any]
) -> None:
    marks = ", ".join("?" * len(columns))
    connection.execute(
        f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})", tuple(values)
    )


def _is_content(digest: object, data: object) -> bool:
    """Whether `data` is what its hash says: a picture, or a document that is compressed."""
    if not isinstance(data, bytes):
        return False
    if hashlib.sha256(data).hexdigest() == digest:
        return True
    try:
        return hashlib.sha256(zlib.decompress(data)).hexdigest() == digest
    except (zlib.error, MemoryError):
        return False


def _is_written(annotation: str, value: Any) -> bool:
    """Whether the store could have written it; its numbers with a point are moments."""
    match annotation:
        case "Origin" | "TurnState" | "AttachmentKind":
            return value in get_args(_WORDS[annotation])
        case "float":
            return fits(annotation, value) and 0 <= value < LATEST_S
    return fits(annotation, value)
