"""Conversations removed, on a full disk too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rqchat.cli.cache import kept_documents
from rqchat.cli.saving import open_store
from rqchat.engine.store.catalog import remove_sessions
from rqchat.errors import RqchatError, StoreFullError

if TYPE_CHECKING:
    from pathlib import Path

    from rqchat.ui.console import Screen

__all__ = ["remove_for_good"]

_TRACES = (
    "words of what was removed stay in the index of the search until the disk has room and"
    " something else is removed"
)
_STUCK = (
    "{} cannot be made smaller: the disk is full, and removing takes some room first, about what is"
    " removed; delete a little of something else there, and try again"
)


def remove_for_good(screen: Screen, ids: Sequence[str]) -> None:
    """Remove sessions. SQLite has to write before it can remove, so that a crash harms nothing.

    Where the disk has no room for that, they go a few at a time, and then what is kept of documents
    gives way, the longest unused first: it can be had again by reading them again.

    Raises:
        StoreError: the store cannot be written, and nothing more can give way.
    """
    if not _removed(screen, ids):
        screen.note(_TRACES)


def _removed(screen: Screen, ids: Sequence[str]) -> bool:
    """Whether no trace stays."""
    with open_store() as database:
        try:
            return remove_sessions(database, ids)
        except StoreFullError:
            path = database.path
    if len(ids) > 1:
        first = len(ids) // 2
        _removed(screen, ids[:first])
        return _removed(screen, ids[first:])
    _give_way(screen, path)
    return _removed(screen, ids)


def _give_way(screen: Screen, path: Path) -> None:
    """Drop the longest unused entry on the disk of `path`.

    Raises:
        StoreFullError: there is none.
    """
    from rqchat.ui.kept import kept_rows

    with suppress(RqchatError, OSError):
        kept = kept_documents()
        disk = path.stat().st_dev
        for entry in reversed(kept.entries()):
            if entry.path.stat().st_dev == disk:
                _, of, _, size, *_ = next(kept_rows([entry]))
                kept.remove([entry])
                screen.note(f"the disk is full: dropped what was kept of {of}, {size}")
                return
    raise StoreFullError(_STUCK.format(path))
