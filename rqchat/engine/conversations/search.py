"""Full text search over questions, answers, names of files, and names of sessions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields

from rqchat.engine.conversations.database import Database, plain
from rqchat.engine.conversations.records import Finding, SessionRecord
from rqchat.engine.conversations.sound_rows import checked

__all__ = ["search_sessions"]

_COLUMNS = ", ".join(f"sessions.{field.name}" for field in fields(SessionRecord))
_EXCERPT_TOKENS = 16
_EXCERPT_CHARACTERS = 40


def search_sessions(database: Database, text: str, limit: int = 20) -> tuple[Finding, ...]:
    """The `limit` newest sessions that hold all words of `text`, each at its newest turn.

    A word matches every word that begins with it; `"quoted words"` match as they stand, in a row.
    Where no turn has the words, any turn that spells `text` is found: parts of words, signs, and
    languages without blanks.

    Raises:
        StoreError: the store cannot be read.
    """
    text = plain(text).replace("\0", " ")  # which would end SQLite's strings
    if not text.strip():
        return ()
    query = _query(text)
    found: dict[str, Finding] = {}
    for finding in _by_name(database, text):
        found.setdefault(finding.session.id, finding)
    for finding in _by_words(database, query) if query else ():
        found.setdefault(finding.session.id, finding)
        if len(found) >= limit:
            break
    if not found and text.strip():
        for finding in _by_letters(database, text.strip()):
            found.setdefault(finding.session.id, finding)
            if len(found) >= limit:
                break
    newest = sorted(found.values(), key=lambda finding: -finding.session.updated_s)
    return tuple(newest[:limit])


def _query(text: str) -> str:
    """`text` in the query language of FTS5, where nothing that a user types is an operator."""
    parts = []
    for phrase, word in re.findall(r'"([^"]*)"|([^\s"]+)', text):
        cleaned = phrase or word
        # Signs are no words in the index: a phrase of nothing else would find nothing.
        if any(char.isalnum() for char in cleaned):
            parts.append(f'"{cleaned}"' + ("" if phrase else "*"))
    return " ".join(parts)


def _by_name(database: Database, text: str) -> list[Finding]:
    with database.read() as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM sessions WHERE instr(folded(name), folded(?))", (text.strip(),)
        ).fetchall()
    records = [checked(SessionRecord, row) for row in rows]
    return [Finding(record, None, record.title) for record in records]


def _by_words(database: Database, query: str) -> Iterator[Finding]:
    """From the newest turn on, read as far as the caller asks."""
    with database.read() as connection:
        yield from _findings(
            connection.execute(
                f"SELECT {_COLUMNS}, turns.number,"
                f" snippet(words, -1, '', '', '...', {_EXCERPT_TOKENS})"
                " FROM words JOIN turns ON turns.id = words.rowid"
                " JOIN sessions ON sessions.id = turns.session_id"
                " WHERE words MATCH ? ORDER BY words.rowid DESC",
                (query,),
            )
        )


def _by_letters(database: Database, text: str) -> Iterator[Finding]:
    whole = "question || char(10) || attached || char(10) || answer"
    with database.read() as connection:
        yield from _findings(
            connection.execute(
                f"SELECT {_COLUMNS}, turns.number, substr({whole},"
                f" max(1, instr(folded({whole}), folded(:text)) - {_EXCERPT_CHARACTERS}),"
                f" {2 * _EXCERPT_CHARACTERS} + length(:text))"
                " FROM turns JOIN sessions ON sessions.id = turns.session_id"
                f" WHERE instr(folded({whole}), folded(:text)) ORDER BY turns.id DESC",
                {"text": text},
            )
        )


def _findings(rows: Iterator[tuple[object, ...]]) -> Iterator[Finding]:
    for *session, number, excerpt in rows:
        record = checked(SessionRecord, session)
        yield Finding(record, number, " ".join(str(excerpt).split()))  # type: ignore[arg-type]
