"""Launch table of the chunk kernel, in plain integers."""

from __future__ import annotations

from rotorquant.ops import launches
from rotorquant.ops.launches import HEAD_DIMS, TileLaunch

__all__ = ["HEAD_DIMS", "launch_config"]


def launch_config(head_dim: int, capability: tuple[int, int]) -> TileLaunch:
    """The launch timed best; else an estimate, the most queries to a tile whose sums stay in
    registers, then the most keys.

    Args:
        head_dim: one of `HEAD_DIMS`.
        capability: of the card, as torch gives it; unknown ones count as having 99 KB of shared
            memory.
    """
    key = "chunk", capability, (head_dim,)
    return TileLaunch(*launches.timed(key, _estimated(head_dim, capability)))


def _estimated(head_dim: int, capability: tuple[int, int]) -> tuple[int, int, int, int]:
    """The estimate: queries, keys, warps and stages."""
    hopper, blackwell = capability[0] == 9, capability[0] == 10
    if head_dim == 512 and blackwell:
        # Sums of 64 rows would fill the tensor memory, and leave none for scores.
        return 32, 32, 8, 2
    if head_dim == 512:
        keys = 32 if hopper or capability == (8, 0) else 16
        return 64, keys, 8, 2
    if head_dim == 256 and hopper:
        return 128, 64, 8, 2
    if head_dim == 256:
        return 64, 32, 8, 2
    if head_dim == 128:
        keys = 64 if hopper or blackwell else 32
        return 128, keys, 8, 2
    return 64, 64, 4, 2
