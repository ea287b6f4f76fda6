"""What marks need of a buffer: rows are copied when later tokens push them out, and not before.

A mark on a GPU is a count at first. Whoever is about to overwrite rows asks `RowKeeper.due_from`
and lets it `keep` what a mark needs of them. No copy makes the host wait: those to the host go to
pinned memory, and come back in the stream's own order.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

__all__ = ["KeptRows", "RowKeeper"]


class _Block(NamedTuple):
    """Rows [B, H, n, ...] of every stream, of tokens from `start` on."""

    start: int
    rows: list[torch.Tensor]

    @property
    def stop(self) -> int:
        return self.start + self.rows[0].shape[2]

    def cut(self, low: int, high: int) -> _Block:
        """Views of tokens `low` to `high`, which it holds."""
        return _Block(low, [rows.narrow(2, low - self.start, high - low) for rows in self.rows])


class KeptRows:
    """Tokens `first` to `length` of a buffer, as they were at a mark.

    Attributes:
        first, length: the tokens.
        device: where copies go.
        end: tokens before this one have been copied; the others are still in the buffer.
    """

    def __init__(self, first: int, length: int, device: torch.device) -> None:
        self.first, self.length, self.device = first, length, device
        self.end = first
        self._blocks: list[_Block] = []

    @property
    def copies(self) -> list[torch.Tensor]:
        """The tensors that were copied so far; two marks may share some."""
        return [rows for block in self._blocks for rows in block.rows]

    def add(self, block: _Block) -> None:
        """Take over the copies of tokens from `end` on."""
        self._blocks.append(block)
        self.end = block.stop

    def cuts(self, low: int, high: int) -> Iterator[_Block]:
        """The copies of tokens `low` to `high`, in order, as far as there are any."""
        for block in self._blocks:
            begin, end = max(low, block.start), min(high, block.stop)
            if begin < end:
                yield block.cut(begin, end)


class RowKeeper:
    """Copies the rows of one buffer for the marks that live.

    Attributes:
        due_from: the first token that a mark needs and that has not been copied.
    """

    def __init__(self) -> None:
        # Weak, so that the copies of a mark go when nobody has it any more
        self._marks: weakref.WeakSet[KeptRows] = weakref.WeakSet()
        self.due_from = sys.maxsize

    def mark(self, first: int, length: int, device: torch.device) -> KeptRows:
        """Let tokens `first` to `length`, which are in the buffer, stay within reach."""
        kept = KeptRows(first, length, device)
        self._marks.add(kept)
        self._look()
        return kept

    def keep(
        self, high: int, read: Callable[[int, int], list[torch.Tensor]], ahead: int = 0
    ) -> None:
        """Copy what marks need of the tokens before `high`, which are about to be overwritten.

        Args:
            high: token.
            read: gives views of every stream's rows from one token to another, or of a part of
                them from the first on.
            ahead: tokens behind `high` that are copied along, to have fewer launches.
        """
        for kept in self._marks:
            due = kept.end < min(high, kept.length)
            stop = min(high + ahead, kept.length) if due else 0
            while kept.end < stop:
                kept.add(self._shared(kept, stop) or _copied(kept, read(kept.end, stop)))
        self._look()

    def forget(self, length: int = -1) -> None:
        """Marks beyond `length` tokens do not hold any more; by default no mark does."""
        for kept in [each for each in self._marks if each.length > length]:
            self._marks.discard(kept)
        self._look()

    def _look(self) -> None:
        due = (kept.end for kept in self._marks if kept.end < kept.length)
        self.due_from = min(due, default=sys.maxsize)

    def _shared(self, kept: KeptRows, stop: int) -> _Block | None:
        """What another mark has copied of the tokens that come next."""
        for other in self._marks:
            if other.device == kept.device:
                for block in other.cuts(kept.end, stop):
                    if block.start == kept.end:
                        return block
        return None


def _copied(kept: KeptRows, rows: list[torch.Tensor]) -> _Block:
    try:
        copies = [each.to(kept.device, non_blocking=True, copy=True) for each in rows]
    except RuntimeError:  # systems lend less pinned memory than there is, other takes a wait
        copies = [each.to(kept.device, copy=True) for each in rows]
    return _Block(kept.end, copies)
