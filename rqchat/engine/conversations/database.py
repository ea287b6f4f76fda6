"""The SQLite file: opened, brought to today's format, and its errors put into sentences.

A store is written by any number of processes at once (write-ahead log, and a wait for whoever is
writing), is readable by its owner alone, and survives `kill -9` and a power cut at any moment:
SQLite commits each transaction whole or not at all.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from rqchat.engine.foreign import cause_of
from rqchat.errors import DamagedStoreError, RqchatError, StoreError, StoreFullError

__all__ = ["APPLICATION_ID", "MIGRATIONS", "Database", "Migration", "decoded", "plain"]

Migration = tuple[str, ...]

# "RQCH" in the file's header, by which our file differs from another program's
APPLICATION_ID = 0x52514348
_WAIT_S = 5.0
_RETRY_S = (0.002, 0.02)  # at random, so that two do not meet again and again
_DAMAGED = (
    "{} is damaged ({}); 'rqchat sessions repair' saves what can be read of it, and keeps the file"
)
_OPTIMIZING_TAKES = 2  # times the file at most: the new index in the log, and then in the file

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


class Database:
    """One connection. Not for two threads at the same time.

    Attributes:
        path: of the file.
        can_write: whether it was opened for more than reading.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, *, can_write: bool = True
    ) -> None:
        """Most callers want `open`."""
        self.path, self.can_write = path, can_write
        self._connection = connection
        self._full: StoreFullError | None = None

    @classmethod
    def open(cls, path: Path, *, migrations: Sequence[Migration] = MIGRATIONS) -> Self:
        """The store in `path`, created where there is none, and brought to today's format.

        Where the folder cannot be written, or the disk is too full for the log's index, an existing
        store is opened for reading alone.

        Raises:
            StoreError: no store, of a newer format, damaged, or its folder cannot be used.
        """
        full: StoreFullError | None = None
        with _sentences(path):
            if _may_be_written(path):
                try:
                    return cls(path, _prepared(_connect(path), path, migrations))
                except sqlite3.OperationalError as error:
                    if not (_is_full(error) and path.stat().st_size):
                        raise
                    full = StoreFullError(str(_explained(path, error)))
            connection = _prepared(_connect_to_read(path), path, migrations)
        database = cls(path, connection, can_write=False)
        database._full = full
        return database

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """For queries.

        Raises:
            StoreError: the file is damaged or cannot be read.
        """
        with _sentences(self.path):
            yield self._connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, or undone whole by an error.

        Raises:
            StoreFullError: the disk is full.
            StoreError: another process writes all the time, or the like.
        """
        if self._full is not None:
            raise self._full
        with _sentences(self.path), _transaction(self._connection):
            yield self._connection

    def erase_traces(self) -> bool:
        """Removes what deleted rows leave in free pages, the log and the search index.

        The index is written anew for that; whether the disk has space for it.

        Raises:
            StoreError: as for `write`.
        """
        self._shrink()
        with _sentences(self.path):
            free_bytes = shutil.disk_usage(self.path.parent).free
            if free_bytes < _OPTIMIZING_TAKES * self.path.stat().st_size:
                return False
        with self.write() as connection:
            connection.execute("INSERT INTO words (words) VALUES ('optimize')")
        self._shrink()
        return True

    def _shrink(self) -> None:
        """Gives free pages back to the disk, and empties the log."""
        with _sentences(self.path):
            # As a script, because `execute` stops after the first page
            self._connection.executescript("PRAGMA incremental_vacuum")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Ends the connection; the last one of all folds the log into the file."""
        with suppress(Exception):
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def plain(text: str) -> str:
    """`text` as SQLite takes it: without lone surrogates, which words of a command line and names
    of files may hold."""
    return text.encode("utf-8", "replace").decode()


def decoded(data: bytes) -> str:
    """Text of the store; bytes that are no text cost nothing but themselves."""
    return data.decode("utf-8", "replace")


def _may_be_written(path: Path) -> bool:
    return not path.exists() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def _connect_to_read(path: Path) -> sqlite3.Connection:
    log = path.with_name(path.name + "-wal")
    # Without a log nothing can change below us, so SQLite need not make files for locking
    still = not log.exists() or log.stat().st_size == 0
    address = f"file:{quote(str(path))}?mode=ro" + ("&immutable=1" if still else "")
    return _opened(address, uri=True)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives its log the permissions of the file
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with suppress(OSError):
        path.chmod(0o600)
    return _opened(str(path), uri=False)


def _opened(address: str, *, uri: bool) -> sqlite3.Connection:
    # No transactions of Python's own making: `_transaction` begins and ends them.
    connection = sqlite3.connect(
        address, timeout=_WAIT_S, isolation_level=None, check_same_thread=False, uri=uri
    )
    connection.text_factory = decoded
    # SQLite's own lower() knows the letters of English alone
    connection.create_function("folded", 1, _folded, deterministic=True)
    return connection


def _folded(text: object) -> str:
    return str(text).casefold()


def _prepared(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]
) -> sqlite3.Connection:
    try:
        _prepare(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    newest = len(migrations)
    if _format(connection, path, newest) < newest:
        # Takes effect only before the first table; the log cannot be switched inside a transaction.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _log_ahead(connection)
        with _transaction(connection):
            # Asked again: another process may have been faster
            for migration in migrations[_format(connection, path, newest) :]:
                for statement in migration:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {newest}")
    # Of the connection, not of the file. NORMAL could lose the latest turns in a power cut.
    for setting in ("foreign_keys = ON", "secure_delete = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {setting}")


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Switches the file to a write-ahead log, and waits for whoever does the same.

    SQLite reads the file first and then asks to write, and where somebody else writes by then it
    does not wait but fails at once: two who both wait would wait for each other.
    """
    deadline_s = time.monotonic() + _WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
        time.sleep(random.uniform(*_RETRY_S))


def _format(connection: sqlite3.Connection, path: Path, newest: int) -> int:
    """The format number of the file, which is ours and not too new."""
    # One statement, so that what another process commits meanwhile is seen whole or not at all
    row: tuple[int, int, int] = connection.execute(
        "SELECT (SELECT user_version FROM pragma_user_version),"
        " (SELECT application_id FROM pragma_application_id),"
        " (SELECT count(*) FROM sqlite_schema)"
    ).fetchone()
    number, owner, tables = row
    if owner != APPLICATION_ID and (owner or number or tables):
        raise StoreError(f"{path} belongs to another program; move it away")
    if number > newest:
        raise StoreError(
            f"{path} was written by a newer rqchat (format {number}, this one knows {newest}) and"
            " was left as it is; update rqchat, or keep this one's conversations apart with"
            " another XDG_DATA_HOME"
        )
    return number


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    # The lock for writing at once: asked for after a read, SQLite does not wait for it.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors, a full disk among them, have rolled back already
        if connection.in_transaction:
            with suppress(Exception):
                connection.execute("ROLLBACK")
        raise


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Within, errors of SQLite and of the file system become `StoreError`.

    So does whatever else is raised: of a damaged file SQLite's own messages are no text any more.
    """
    try:
        yield
    except (RqchatError, GeneratorExit):
        raise
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror or error}") from error
    except Exception as error:
        raise DamagedStoreError(_DAMAGED.format(path, cause_of(error))) from error


def _is_full(error: sqlite3.Error) -> bool:
    return "full" in str(error) or "disk I/O" in str(error)


def _explained(path: Path, error: sqlite3.Error) -> StoreError:
    text = str(error)
    if "locked" in text:
        return StoreError(
            f"{path} is being written by another program for more than {_WAIT_S:.0f} s"
        )
    if _is_full(error):
        return StoreFullError(
            f"{path} cannot be written ({text}); make room on the disk, for example of what is kept"
            " of documents: rqchat cache clear"
        )
    if "readonly" in text:
        return StoreError(
            f"{path} cannot be written: it or its folder is read-only, or the disk is full"
        )
    if "unable to open" in text or isinstance(error, sqlite3.ProgrammingError):
        return StoreError(f"{path} cannot be used: {text}")
    # Whatever else SQLite says of a file that it has made itself: a table that is gone, a page
    return DamagedStoreError(_DAMAGED.format(path, cause_of(error)))
