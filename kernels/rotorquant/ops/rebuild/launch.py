"""Launch table of the rebuild kernel, in plain integers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEAD_DIMS", "Launch", "launch_config"]

HEAD_DIMS = (32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Launch:
    """One program rebuilds `block_rows` rows."""

    block_rows: int
    num_warps: int


def launch_config(head_dim: int) -> Launch:
    """Untuned: 4096 values to a program, 32 to a thread, on every card."""
    return Launch(block_rows=4096 // head_dim, num_warps=4)
