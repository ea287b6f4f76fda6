"""Launch table of the chunk kernel, in plain integers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEAD_DIMS", "Launch", "launch_config"]

HEAD_DIMS = (32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Launch:
    """One program takes `block_rows` queries through tiles of `block_keys` keys."""

    block_rows: int
    block_keys: int
    num_warps: int
    num_stages: int


def launch_config(head_dim: int, capability: tuple[int, int]) -> Launch:
    """The most queries to a tile whose sums stay in registers, then the most keys; untuned.

    Args:
        head_dim: one of `HEAD_DIMS`.
        capability: of the card, as torch gives it; unknown ones count as having 99 KB of shared
            memory.
    """
    hopper, blackwell = capability[0] == 9, capability[0] == 10
    if head_dim == 512 and blackwell:
        # Sums of 64 rows would fill the tensor memory, and leave no room for scores.
        return Launch(block_rows=32, block_keys=32, num_warps=8, num_stages=2)
    if head_dim == 512:
        keys = 32 if hopper or capability == (8, 0) else 16
        return Launch(block_rows=64, block_keys=keys, num_warps=8, num_stages=2)
    if head_dim == 256 and hopper:
        return Launch(block_rows=128, block_keys=64, num_warps=8, num_stages=2)
    if head_dim == 256:
        return Launch(block_rows=64, block_keys=32, num_warps=8, num_stages=2)
    if head_dim == 128:
        keys = 64 if hopper or blackwell else 32
        return Launch(block_rows=128, block_keys=keys, num_warps=8, num_stages=2)
    return Launch(block_rows=64, block_keys=64, num_warps=4, num_stages=2)
