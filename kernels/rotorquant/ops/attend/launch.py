"""Launch table of the attend kernels, in plain integers."""

from __future__ import annotations

from rotorquant.ops import launches
from rotorquant.ops.launches import HEAD_DIMS, TileLaunch

__all__ = ["HEAD_DIMS", "ROWS_LIMIT", "SPLITS_LIMIT", "launch_config", "pairs_limit", "splits_of"]

# 16 positions of 16 query heads. With more rows a tile of keys is better decoded once for all.
ROWS_LIMIT = 256
SPLITS_LIMIT = 128


def launch_config(
    head_dim: int, bits: int, rows: int, pairs: int, moved: bool, capability: tuple[int, int]
) -> TileLaunch:
    """The launch timed best; else an estimate, the most keys to a tile that compile without
    spills under Triton 3.6 and 3.9.

    At 512 values more than 16 queries are taken 32 at a time: a tile is decoded half as often.

    Args:
        head_dim: one of `HEAD_DIMS`.
        bits: 2, 3, 4, 5, 6, 8 or 16: the wider of keys and values.
        rows: queries of a head of keys.
        pairs: rotary pairs that are turned when read, 0 to `pairs_limit`.
        moved: whether rows leave an offset out, whose scores need registers of their own.
        capability: of the card, as torch gives it.
    """
    block = 8 if rows <= 8 else 32 if rows > 16 and head_dim == 512 else 16
    light = head_dim < 512 or (block == 8 and bits in (2, 4, 16) and not moved)
    turning = 4 * pairs > head_dim
    keys = 32 if light and not turning else 16
    full = head_dim == 512 or (head_dim == 256 and turning)
    warps = 8 if block > 8 and full else 4 if head_dim > 128 else 2
    key = "attend", capability, (head_dim, bits, pairs, int(moved), block)
    return TileLaunch(*launches.timed(key, (block, keys, warps, 1)))


def pairs_limit(head_dim: int) -> int:
    """Rotary pairs with which the kernel still fits every card."""
    return 64 if head_dim == 512 else head_dim // 2


def splits_of(keys: int, programs: int, launch: TileLaunch, processors: int) -> int:
    """Pieces of the keys, for two programs on every processor, of two tiles at least."""
    wanted = -(-2 * processors // programs)
    possible = -(-keys // (2 * launch.block_keys))
    return max(1, min(wanted, possible, SPLITS_LIMIT))
