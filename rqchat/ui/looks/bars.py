"""Bars of block characters, for shares of memory and for how far something has come."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FULL", "TRACK", "progress_bar", "share_cells"]

FULL, TRACK = "█", "░"


def progress_bar(share: float, cells: int) -> str:
    """`███░░░`: `share` of so many cells, from 0 to 1."""
    done = max(0, min(cells, round(cells * share)))
    return FULL * done + TRACK * (cells - done)


def share_cells(sizes: Sequence[int], cells: int) -> list[int]:
    """How many of `cells` each of `sizes` gets: none for 0, else at least one, `cells` in all."""
    total = max(sum(sizes), 1)
    given = [max(1, round(cells * size / total)) if size > 0 else 0 for size in sizes]
    largest = max(range(len(given)), key=given.__getitem__)
    given[largest] += cells - sum(given)
    return given
