"""Launch table of the attend kernels, in plain integers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEAD_DIMS", "ROWS_LIMIT", "Launch", "launch_config", "splits_of"]

HEAD_DIMS = (32, 64, 128, 256, 512)
# 16 positions of 16 query heads. With more rows a tile of keys is better decoded once for all.
ROWS_LIMIT = 256
_SPLITS_LIMIT = 128


@dataclass(frozen=True, slots=True)
class Launch:
    """One program takes `block_rows` queries through tiles of `block_keys` keys."""

    block_rows: int
    block_keys: int
    num_warps: int
    num_stages: int


def launch_config(
    head_dim: int, bits: int, rows: int, capability: tuple[int, int]
) -> Launch:
    """Chosen by registers and shared memory at compile time; untuned on every card.

    Args:
        head_dim: one of `HEAD_DIMS`.
        bits: 2, 3, 4, 5, 6 or 8, of the keys.
        rows: queries of a key head.
        capability: of the card, as torch gives it.
    """
    block_rows = 16 if rows <= 16 or head_dim == 512 else 32
    if head_dim == 512:
        return Launch(block_rows, block_keys=32, num_warps=8, num_stages=1)
    return Launch(block_rows, block_keys=64 if head_dim <= 128 else 32, num_warps=4, num_stages=1)


def splits_of(keys: int, programs: int, launch: Launch, processors: int) -> int:
    """Parts of the keys, for two programs on every processor, of two tiles at least."""
    wanted = -(-2 * processors // programs)
    possible = -(-keys // (2 * launch.block_keys))
    return max(1, min(wanted, possible, _SPLITS_LIMIT))
