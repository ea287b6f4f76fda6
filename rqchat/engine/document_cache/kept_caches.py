"""Packed caches of conversations that are not the current one, in host memory, found by prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rotorquant.snapshot import FrozenCache

__all__ = ["KeptCache", "KeptCaches"]


class KeptCache(NamedTuple):
    """A cache and the keys (`Prompt.keys`) of its tokens."""

    keys: tuple[int, ...]
    frozen: FrozenCache


class KeptCaches:
    """Caches of at most `most_bytes` together; the least recently used ones go first.

    Only whole caches are of use, because a sliding window cannot be taken back: an entry belongs to
    a prompt that begins with all of its tokens.
    """

    def __init__(
        self,
        model: Any,
        most_bytes: int,
        on_drop: Callable[[FrozenCache, Sequence[int]], None] | None = None,
    ) -> None:
        """`on_drop` gets what there is no room for, such as to write it to a disk."""
        self._model, self._most_bytes, self._on_drop = model, most_bytes, on_drop
        self._entries: list[KeptCache] = []  # the latest used last

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.frozen.nbytes for entry in self._entries)

    def put(self, keys: Sequence[int], frozen: FrozenCache) -> None:
        """Keeps a cache; those that are a beginning of it are of no use any more."""
        added = KeptCache(tuple(keys), frozen)
        self._entries = [
            entry for entry in self._entries if added.keys[: len(entry.keys)] != entry.keys
        ]
        self._entries.append(added)
        while self._entries and self.nbytes > self._most_bytes:
            dropped = self._entries.pop(0)
            if self._on_drop is not None:
                self._on_drop(dropped.frozen, dropped.keys)

    def take(self, keys: Sequence[int], more_than: int) -> KeptCache | None:
        """Removes and returns the longest entry that `keys` go on after; None without one of
        `more_than` tokens."""
        given = tuple(keys)
        fitting = [
            entry
            for entry in self._entries
            if more_than < len(entry.keys) < len(given) and given[: len(entry.keys)] == entry.keys
        ]
        best = max(fitting, key=lambda entry: len(entry.keys), default=None)
        if best is not None:
            self._entries = [entry for entry in self._entries if entry is not best]
        return best

    def thaw(self, entry: KeptCache, like: Any) -> Any:
        """The cache that `entry` was, as large as `like`.

        Raises:
            SnapshotError: it is of another model.
        """
        return type(like).thaw(entry.frozen, self._model, max_tokens=like.config.max_tokens)

    def clear(self) -> list[KeptCache]:
        """Removes and returns all entries."""
        entries, self._entries = self._entries, []
        return entries
