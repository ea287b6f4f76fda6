"""Launch table of the quantize kernel, in plain integers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEAD_DIMS", "Launch", "launch_config"]

HEAD_DIMS = (32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Launch:
    """One program quantizes `block_rows` vectors."""

    block_rows: int
    num_warps: int


def launch_config(head_dim: int, bits: int, capability: tuple[int, int]) -> Launch:
    """Untuned: 2048 values to a program, eight to sixteen to a thread, on every card.

    Args:
        head_dim: one of `HEAD_DIMS`.
        bits: 2, 3, 4, 5, 6 or 8.
        capability: of the card, as torch gives it.
    """
    return Launch(block_rows=max(1, 2048 // head_dim), num_warps=4)
