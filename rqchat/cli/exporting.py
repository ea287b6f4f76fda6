"""Conversations as files, for `rqchat sessions export` and `/export`."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from rqchat.engine.conversations.attachments import load_turn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.export import as_markdown, whole_record
from rqchat.engine.conversations.records import SessionRecord
from rqchat.engine.conversations.sessions import read_turns
from rqchat.errors import InputError, UsageError

__all__ = ["export_text", "write_new"]


def export_text(database: Database, session: SessionRecord, form: str) -> str:
    """A session as `md` or `json`.

    Raises:
        UsageError: another form.
        StoreError: the store cannot be read.
    """
    turns = read_turns(database, session.id)
    if form == "json":
        asked = [load_turn(database, turn) for turn in turns]
        return json.dumps(whole_record(session, turns, asked), indent=2) + "\n"
    if form != "md":
        raise UsageError(f"--format is {form!r}; allowed are md, json")
    return as_markdown(session, turns)


def write_new(path: Path, text: str) -> None:
    """Writes a file that does not exist yet, readable by its owner alone: all of it, or none.

    Raises:
        InputError: it exists, or cannot be written.
    """
    try:
        with open(path.expanduser(), "x", encoding="utf-8", opener=_private) as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} exists already; give the name of a new file") from None
    except OSError as error:
        # Half a file would be in the way of the next try
        with contextlib.suppress(OSError):
            path.expanduser().unlink()
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
