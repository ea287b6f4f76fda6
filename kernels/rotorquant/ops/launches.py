"""Launches of the kernels: those timed on a card, and what stands for them elsewhere.

`python -m rotorquant.bench tune --write kernels/rotorquant/ops/launches.py` rewrites the table. A
key is (kernel, capability of the card, what the kernel is made for).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEAD_DIMS", "TABLE", "RowsLaunch", "launch_rows", "timed"]

HEAD_DIMS = (32, 64, 128, 256, 512)
Key = tuple[str, tuple[int, int], tuple[int, ...]]
TABLE: dict[Key, tuple[int, ...]] = {}


def timed(key: Key, reckoned: tuple[int, ...]) -> tuple[int, ...]:
    """The launch that was timed best, else the one reckoned."""
    return TABLE.get(key, reckoned)


@dataclass(frozen=True, slots=True)
class RowsLaunch:
    """One program takes `block_rows` vectors."""

    block_rows: int
    num_warps: int


def launch_rows(kernel: str, head_dim: int, bits: int, capability: tuple[int, int]) -> RowsLaunch:
    """Of a kernel that works on vectors one by one.

    Reckoned: 2048 values to a program, eight to sixteen to a thread.

    Args:
        kernel: "quantize" or "dequantize".
        head_dim: one of `HEAD_DIMS`.
        bits: 2, 3, 4, 5, 6 or 8.
        capability: of the card, as torch gives it.
    """
    reckoned = max(1, 2048 // head_dim), 4
    return RowsLaunch(*timed((kernel, capability, (head_dim, bits)), reckoned))
