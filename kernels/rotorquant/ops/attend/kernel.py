"""Attention of a few queries over packed keys on a GPU; the formulas are those of `reference.py`.

The keys are split among programs, which leave parts; a second kernel joins them. A program decodes
a tile of rows once for scores and sums. Products are float16 on tensor cores (`ops.tiles`); sums,
softmax and angles are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.attend.launch import SPLITS_LIMIT, launch_config, splits_of
from rotorquant.ops.attend.reference import Part, Rope, Rows
from rotorquant.ops.launches import TileLaunch
from rotorquant.ops.strides import dense
from rotorquant.ops.tiles.kernel import leave, stored_part

__all__ = [
    "attend_kernel",
    "attend_packed",
    "constants",
    "flat",
    "join_kernel",
    "rotary",
    "widths",
]

_ROUNDING = {torch.bfloat16: 16, torch.float16: 15, torch.float32: 32}


# Both change from step to step: Triton would compile again when one becomes a multiple of 16.
@triton.jit(do_not_specialize=["rows", "keys"])
def attend_kernel(
    queries, key, value, rope, mask, parts, heads, rows, keys,
    D: tl.constexpr, KP: tl.constexpr, KE: tl.constexpr, VP: tl.constexpr, VE: tl.constexpr,
    SPLIT: tl.constexpr, PAIRS: tl.constexpr, ROUND: tl.constexpr, BIAS: tl.constexpr,
    MASK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    STAGES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """One part over one piece of the keys: top, mass [B H, S, R] and total [B H, S, R, D].

    Grid (S, row tiles, B H); arguments as for `stored_part`.
    """
    piece, pieces = tl.program_id(0), tl.num_programs(0)
    both = tl.program_id(2).to(tl.int64)
    # In whole tiles, so that only the last piece has a tile that is not full.
    share = tl.cdiv(tl.cdiv(keys, KEYS), pieces) * KEYS
    low = piece * share
    high = tl.minimum(low + share, keys)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    top, mass, total = stored_part(
        queries, key, value, rope, mask, both, heads, row, rows, low, high, 0,
        D, KP, KE, VP, VE, SPLIT, PAIRS, ROUND, BIAS, MASK, ROWS, KEYS, STAGES, CHUNKS,
    )  # fmt: skip
    leave(parts, top, mass, total, (both * pieces + piece) * rows + row, row < rows, D)


@triton.jit(do_not_specialize=["pieces", "rows"])
def join_kernel(
    tops_ptr, masses_ptr, totals_ptr, top_ptr, mass_ptr, total_ptr, pieces, rows,
    D: tl.constexpr, PIECES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Join the parts of all pieces; grid (B H, R, D / WIDTH), shapes as `attend_kernel` leaves."""
    both, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    # [PIECES], [PIECES, WIDTH]
    piece = tl.arange(0, PIECES)
    there = piece < pieces
    line = (both * pieces + piece) * rows + row
    # -1e30 is `reference.EMPTY_TOP`.
    tops = tl.load(tops_ptr + line, mask=there, other=-1e30)
    top = tl.max(tops, 0)
    weight = tl.where(there, tl.exp(tops - top), 0.0)
    mass = tl.sum(weight * tl.load(masses_ptr + line, mask=there, other=0.0), 0)
    dims = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    at = totals_ptr + line[:, None] * D + dims[None, :]
    total = tl.sum(weight[:, None] * tl.load(at, mask=there[:, None], other=0.0), 0)
    place = both * rows + row
    tl.store(total_ptr + place * D + dims, total)
    if tl.program_id(2) == 0:
        tl.store(top_ptr + place, top)
        tl.store(mass_ptr + place, mass)


def constants(
    head_dim: int,
    key_bits: tuple[int, int],
    value_bits: tuple[int, int] | None,
    pairs: int,
    launch: TileLaunch,
) -> dict[str, int]:
    """What the kernel is compiled for, but ROUND, BIAS and MASK.

    Args:
        head_dim: D.
        key_bits, value_bits: primary and extra bits; None where keys are the values.
        pairs: rotary pairs, 0 without a rotary part.
        launch: from the table.
    """
    primary, extra = value_bits or key_bits
    # A tensor core takes 16 columns at least.
    chunks = min(launch.num_warps, head_dim // 16)
    return {
        "D": head_dim,
        "KP": key_bits[0],
        "KE": key_bits[1],
        "VP": primary,
        "VE": extra,
        "SPLIT": value_bits is not None,
        # Each chunk of the 4 PAIRS columns has 16, too.
        "PAIRS": max(4 * chunks, 16, triton.next_power_of_2(pairs)) if pairs else 0,
        "ROWS": launch.block_rows,
        "KEYS": launch.block_keys,
        "STAGES": launch.num_stages,
        "CHUNKS": chunks,
    }


def attend_packed(
    query: torch.Tensor,
    key: Rows,
    value: Rows | None,
    table: torch.Tensor | None,
    rope: Rope | None,
    key_mask: torch.Tensor | None,
    value_table: torch.Tensor | None,
) -> Part:
    """The part of packed or plain rows, in one launch or two; D is one of `launch.HEAD_DIMS`."""
    batch, heads, rows, head_dim = query.shape
    keys = key.primary.shape[2]
    value_table = table if value_table is None else value_table
    wide = widths(key, table), widths(value or key, value_table)
    bias = rope is not None and rope.bias is not None
    pairs = 0 if rope is None else len(rope.first)
    capability = dispatch.capability_of(query)
    launch = launch_config(head_dim, max(map(sum, wide)), rows, pairs, bias, capability)
    tiles = triton.cdiv(rows, launch.block_rows)
    pieces = splits_of(keys, batch * heads * tiles, launch, dispatch.processors_of(query))
    parts = _new_part(query, batch * heads, pieces, rows)
    queries, places, rounding = rotary(query, rope, key)
    mask = key.primary[:, 0, :, 0] if key_mask is None else key_mask.view(torch.uint8)
    attend_kernel[(pieces, tiles, batch * heads)](
        queries, flat(key, table), flat(value or key, value_table), places,
        (mask, *mask.stride()), parts, heads, rows, keys,
        **constants(head_dim, wide[0], None if value is None else wide[1], pairs, launch),
        ROUND=rounding, BIAS=bias, MASK=key_mask is not None,
        num_warps=launch.num_warps, enable_fp_fusion=True, **dispatch.registers(launch.num_warps),
    )  # fmt: skip
    if pieces > 1:
        whole, width = _new_part(query, batch * heads, rows), min(64, head_dim)
        join_kernel[(batch * heads, rows, head_dim // width)](
            *parts, *whole, pieces, rows,
            D=head_dim, PIECES=SPLITS_LIMIT, WIDTH=width, enable_fp_fusion=True,
        )  # fmt: skip
        parts = whole
    return Part(*(part.view(batch, heads, rows, -1) for part in parts))


def _new_part(query: torch.Tensor, *shape: int) -> tuple[torch.Tensor, ...]:
    """Top and mass of that shape, and a total of the query's size for each."""
    sizes = 1, 1, query.shape[-1]
    return tuple(
        torch.empty(*shape, size, dtype=torch.float32, device=query.device) for size in sizes
    )


def rotary(
    query: torch.Tensor, rope: Rope | None, key: Rows
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor | int, ...], int]:
    """Queries; frequencies, positions with their strides and the pairs; rounding.

    What is not there, and never read, another tensor stands for.
    """
    query = query.contiguous()
    if rope is None:
        positions = key.primary[:, 0, :, 0]
        return (query,) * 3, (query, positions, *positions.stride(), 0), 32
    queries = query, rope.query, query if rope.bias is None else rope.bias
    return (
        tuple(each.contiguous() for each in queries),
        (
            rope.frequencies.contiguous(),
            rope.positions,
            *rope.positions.stride(),
            len(rope.first),
        ),
        _ROUNDING[rope.dtype],
    )


def flat(rows: Rows, table: torch.Tensor | None) -> tuple[torch.Tensor | int, ...]:
    """Pointers and strides in the kernel's order; what is missing is stood for."""
    primary = dense(rows.primary)
    extra = primary if rows.extra is None else dense(rows.extra)
    scale = primary[..., 0] if rows.scale is None else rows.scale
    decode = primary if table is None else table.to(torch.float16).contiguous()
    strides = *primary.stride()[:3], *extra.stride()[:3], *scale.stride()
    return (primary, extra, scale, decode, *strides)


def widths(rows: Rows, table: torch.Tensor | None) -> tuple[int, int]:
    """Primary and extra bits of a decode table [2**(8 + group bits), fields]; 16 for plain rows."""
    if table is None or rows.scale is None:
        return 16, 0
    fields = table.shape[1]
    return 8 // fields, (table.shape[0].bit_length() - 9) // fields
