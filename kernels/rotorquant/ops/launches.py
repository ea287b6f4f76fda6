"""Launches of the kernels: those timed on a card, and estimates for all others.

`python -m rotorquant.bench tune --write kernels/rotorquant/ops/launches.py` rewrites the table. A
key is (kernel, capability of the card, what the kernel is made for).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "HEAD_DIMS",
    "TABLE",
    "MapLaunch",
    "RowsLaunch",
    "TileLaunch",
    "launch_map",
    "launch_rows",
    "timed",
]

HEAD_DIMS = (32, 64, 128, 256, 512)
Key = tuple[str, tuple[int, int], tuple[int, ...]]
# Empty as long as nobody has run `bench tune` on a card: every launch is an estimate then.
TABLE: dict[Key, tuple[int, ...]] = {}


def timed(key: Key, estimated: tuple[int, ...]) -> tuple[int, ...]:
    """The launch that was timed best, else the estimated one."""
    return TABLE.get(key, estimated)


@dataclass(frozen=True, slots=True)
class TileLaunch:
    """One program takes `block_rows` queries through tiles of `block_keys` keys."""

    block_rows: int
    block_keys: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class RowsLaunch:
    """One program takes `block_rows` vectors."""

    block_rows: int
    num_warps: int


def launch_rows(kernel: str, head_dim: int, bits: int, capability: tuple[int, int]) -> RowsLaunch:
    """The launch of a kernel that works on vectors one by one.

    The estimate: 4096 values to a program, 32 to a thread, over which fixed costs are shared.

    Args:
        kernel: "quantize", "dequantize", "mix" or "rebuild".
        head_dim: one of `HEAD_DIMS`.
        bits: 2, 3, 4, 5, 6 or 8.
        capability: of the card, as torch gives it.
    """
    estimated = 4096 // head_dim, 4
    return RowsLaunch(*timed((kernel, capability, (head_dim, bits)), estimated))


@dataclass(frozen=True, slots=True)
class MapLaunch:
    """One program takes `block_rows` vectors; matrices come in tiles of `block_columns`."""

    block_rows: int
    block_columns: int
    num_warps: int
    num_stages: int


def launch_map(head_dim: int, bits: int, shaped: bool, capability: tuple[int, int]) -> MapLaunch:
    """The launch of the kernel that maps vectors by matrices; arguments as for `launch_rows`."""
    estimated = 16, 16, 8 if head_dim > 128 else 4, 1
    return MapLaunch(*timed(("map", capability, (head_dim, bits, int(shaped))), estimated))
