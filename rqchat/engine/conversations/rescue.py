"""What can be read of a damaged store, in a new one: row by row, and with SQLite's own recovery.

Three readings of a copy, each for rows that the one before did not have: as it is; with the schema
of an empty store over its own, because pages of tables outlive a broken first page; and what the
`sqlite3` program's `.recover` finds on pages that nothing leads to any more, where it is installed.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rqchat.engine.conversations.database import Database, decoded
from rqchat.engine.conversations.sound_rows import TABLES, keep_row
from rqchat.errors import DamagedStoreError, InputError, StoreError

__all__ = ["Rescued", "ask_store", "repair", "rescue"]

T = TypeVar("T")
Row = Sequence[Any]

_PAGE_BYTES = 4096  # SQLite's default, which our stores have
_PAGES_AT, _FREE_AT = 28, 32  # in the header: the file's pages; first free page, and their number
_MOST_GAPS = 1000  # row ids that are tried one by one where the last one cannot be found


@dataclass(frozen=True, slots=True)
class Rescued:
    """What a new store got of a damaged one.

    Attributes:
        conversations, turns: how many of them.
        is_whole: whether nothing was damaged.
        kept_as: where the damaged file is now; None where it was left in its place.
    """

    conversations: int
    turns: int
    is_whole: bool
    kept_as: Path | None = None


def ask_store(path: Path, question: Callable[[Database], T], warn: Callable[[str], None]) -> T:
    """What `question` finds in the store; where that is damaged, in all of it that can be read.

    `warn` gets a sentence then.

    Raises:
        StoreError: nothing of it can be read.
    """
    try:
        with Database.open(path) as database:
            return question(database)
    except DamagedStoreError as error:
        damage = error
    with tempfile.TemporaryDirectory(prefix="rqchat-") as folder:
        target = Path(folder) / path.name
        if not rescue(path, target).conversations:
            raise damage
        warn(f"{damage}; what can be read is shown")
        with Database.open(target) as database:
            return question(database)


def repair(path: Path) -> Rescued:
    """Puts a new store with all that can be read in the place of a damaged one, which is kept.

    Raises:
        InputError: there is no store.
        StoreError: the new one cannot be written.
    """
    if not path.is_file():
        raise InputError(f"there is no {path} to repair")
    try:
        # In the same folder, so that it takes the old one's place in one step
        with tempfile.TemporaryDirectory(prefix="repair-", dir=path.parent) as folder:
            target = Path(folder) / path.name
            rescued = rescue(path, target)
            if rescued.is_whole:
                return rescued
            kept = path.with_name(f"{path.stem}-damaged-{time.strftime('%Y%m%d-%H%M%S')}.db")
            for end in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + end).rename(kept.with_name(kept.name + end))
            target.rename(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be repaired: {error.strerror or error}") from error
    return Rescued(rescued.conversations, rescued.turns, is_whole=False, kept_as=kept)


def rescue(path: Path, target: Path) -> Rescued:
    """Makes a store in `target` of all that can be read of the one in `path`, which is not touched.

    Raises:
        StoreError: `target` cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="rescue-", dir=target.parent) as folder:
        copy = Path(folder) / "copy.db"
        for end in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(path.with_name(path.name + end), copy.with_name(copy.name + end))
        with suppress(Exception), _opened(copy) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what only the log has
        with Database.open(target) as new:
            is_whole = _is_sound(copy) and _copied([_read_as_it_is(copy)], new)
            if not is_whole:
                grafted, found = Path(folder) / "grafted.db", Path(folder) / "found.db"
                _graft(copy, grafted)
                _recover(copy, found)
                _copied([_read_as_it_is(each) for each in (copy, grafted, found)], new)
            with new.read() as connection:
                conversations, turns = connection.execute(
                    "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM turns)"
                ).fetchone()
    return Rescued(conversations, turns, is_whole)


def _copied(sources: Sequence[Callable[[str], Iterator[Row | None]]], new: Database) -> bool:
    """Whether all rows of all sources could be read, and were as they should be."""
    is_whole = True
    with new.write() as connection:
        for table in TABLES:  # those that others refer to first
            for source in sources:
                for row in source(table):
                    is_whole &= row is not None and keep_row(connection, table, row)
    return is_whole


def _is_sound(copy: Path) -> bool:
    try:
        with Database.open(copy) as database, database.write() as connection:
            # The index of the search is asked through a command of its own
            connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
            found: tuple[str] = connection.execute("PRAGMA integrity_check(1)").fetchone()
            return found[0] == "ok"
    except StoreError:
        return False


def _read_as_it_is(file: Path) -> Callable[[str], Iterator[Row | None]]:
    """Reads the rows of a table; None stands for what cannot be read."""

    def rows(table: str) -> Iterator[Row | None]:
        with suppress(sqlite3.Error), _opened(file) as connection:
            yield from _rows(connection, table)
            if table in _FIELDS:
                yield from _lost_rows(connection, table)

    return rows


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.text_factory = decoded
        with suppress(Exception):
            connection.execute("PRAGMA writable_schema = ON")  # passes over broken entries
        yield connection


def _rows(connection: sqlite3.Connection, table: str) -> Iterator[Row | None]:
    """Each row of `table`, found by its row id, so that a broken page costs its own rows alone."""
    columns = ", ".join(TABLES[table])
    last, gaps, top = -1, 0, _top(connection, table)
    while last < top:
        try:
            for row_id, *row in connection.execute(
                f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid",
                (last,),
            ):
                if row_id <= last:
                    break
                last, gaps = row_id, 0
                yield row
            return
        except Exception:  # SQLite raises whatever a broken page makes of it
            yield None
            gaps += 1
            last += 1 + gaps // 100  # or a table without any page would be asked for each row


def _top(connection: sqlite3.Connection, table: str) -> int:
    """The last row id, as far as it can be known."""
    for query in (
        f"SELECT max(rowid) FROM {table} NOT INDEXED",
        f"SELECT max(rowid) FROM {table}",
    ):
        with suppress(Exception):
            return int(connection.execute(query).fetchone()[0] or 0)
    return _MOST_GAPS


def _graft(copy: Path, grafted: Path) -> None:
    """`copy` with the schema's pages of an empty store, whose tables begin at the same pages."""
    empty = grafted.with_name("empty.db")
    with Database.open(empty) as database, database.read() as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        roots = {row[0] for row in connection.execute("SELECT rootpage FROM sqlite_schema")}
    schema, data = empty.read_bytes(), bytearray(copy.read_bytes())
    pages = len(data) // _PAGE_BYTES
    for page in range(min(len(schema) // _PAGE_BYTES, pages)):
        if page + 1 not in roots and page != 1:  # the second page leads back from pages to parents
            part = slice(page * _PAGE_BYTES, (page + 1) * _PAGE_BYTES)
            data[part] = schema[part]
    data[_PAGES_AT:_FREE_AT] = pages.to_bytes(4, "big")
    data[_FREE_AT : _FREE_AT + 8] = bytes(8)
    grafted.write_bytes(data)


def _recover(copy: Path, found: Path) -> None:
    """What the `sqlite3` program recovers; nothing where there is no such program."""
    try:
        with (
            subprocess.Popen(
                ["sqlite3", str(copy), ".recover"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as recovering,
            subprocess.Popen(
                ["sqlite3", str(found)],
                stdin=recovering.stdout,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ),
        ):
            pass
    except OSError:
        return


# Columns of a row by which `.recover` tells it where its table is not known
_FIELDS = {"sessions": 10, "turns": 10, "contents": 2, "attachments": 6}


def _lost_rows(connection: sqlite3.Connection, table: str) -> Iterator[Row]:
    """Rows on pages that no table leads to, which may be of `table`: `keep_row` looks."""
    columns = [f"c{number}" for number in range(_FIELDS[table])]
    if table == "turns":
        columns[0] = "id"  # the row's own number
    with suppress(sqlite3.Error):
        yield from connection.execute(
            f"SELECT {', '.join(columns)} FROM lost_and_found WHERE nfield = {_FIELDS[table]}"
        )
