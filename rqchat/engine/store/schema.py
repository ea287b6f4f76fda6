"""The tables of the store, by format number.

A store of format N becomes one of format N + 1 by `MIGRATIONS[N]`; an empty file is of format 0.
What is released is never edited: a change of the tables is a further migration.
"""

from __future__ import annotations

__all__ = ["APPLICATION_ID", "MIGRATIONS", "Migration"]

Migration = tuple[str, ...]

APPLICATION_ID = (
    0x52514348  # "RQCH", in the file's header: it tells our file from another program's
)

# Full text search follows `turns` through triggers, so the two cannot differ. A turn is inserted as
# `unfinished` and changed once its answer ends: a process that dies has marked its answer already.
_FORMAT_1: Migration = (
    """CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        name TEXT UNIQUE COLLATE NOCASE,
        title TEXT NOT NULL,
        origin TEXT NOT NULL CHECK (origin IN ('chat', 'ask')),
        model TEXT NOT NULL,
        system TEXT,
        forked_from TEXT,
        created_s REAL NOT NULL,
        updated_s REAL NOT NULL,
        turns INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX sessions_updated ON sessions (updated_s)",
    """CREATE TABLE turns (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        asked_s REAL NOT NULL,
        question TEXT NOT NULL,
        attached TEXT NOT NULL,
        thought TEXT NOT NULL,
        answer TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('unfinished', 'interrupted', 'complete')),
        receipt TEXT NOT NULL,
        UNIQUE (session_id, number)
    )""",
    "CREATE TABLE contents (hash TEXT PRIMARY KEY, data BLOB NOT NULL)",
    """CREATE TABLE attachments (
        turn_id INTEGER NOT NULL REFERENCES turns (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('document', 'picture')),
        name TEXT NOT NULL,
        hash TEXT NOT NULL REFERENCES contents (hash),
        size_bytes INTEGER NOT NULL,
        PRIMARY KEY (turn_id, position)
    )""",
    "CREATE INDEX attachments_hash ON attachments (hash)",
    """CREATE VIRTUAL TABLE words USING fts5 (
        question, attached, answer,
        content = 'turns', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
    )""",
    """CREATE TRIGGER turn_added AFTER INSERT ON turns BEGIN
        UPDATE sessions SET turns = turns + 1 WHERE id = new.session_id;
        INSERT INTO words (rowid, question, attached, answer)
            VALUES (new.id, new.question, new.attached, new.answer);
    END""",
    """CREATE TRIGGER turn_removed AFTER DELETE ON turns BEGIN
        UPDATE sessions SET turns = turns - 1 WHERE id = old.session_id;
        INSERT INTO words (words, rowid, question, attached, answer)
            VALUES ('delete', old.id, old.question, old.attached, old.answer);
    END""",
    """CREATE TRIGGER turn_changed AFTER UPDATE OF question, attached, answer ON turns BEGIN
        INSERT INTO words (words, rowid, question, attached, answer)
            VALUES ('delete', old.id, old.question, old.attached, old.answer);
        INSERT INTO words (rowid, question, attached, answer)
            VALUES (new.id, new.question, new.attached, new.answer);
    END""",
)

MIGRATIONS: tuple[Migration, ...] = (_FORMAT_1,)
