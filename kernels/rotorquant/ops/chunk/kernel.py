"""Attention of a chunk of queries on a GPU; the formulas are those of `reference.py`.

A program takes a tile of rows, the query heads of a key head side by side, through the keys that
any of them sees. Products are those of tensor cores in the dtype given, sums and softmax float32.
Wide heads lie in tiles of 256 columns: a tile of sums then stays in registers, and the next tile of
keys is on its way while one is worked on.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.attend import Part
from rotorquant.ops.chunk.launch import launch_config
from rotorquant.ops.chunk.reference import Rules
from rotorquant.ops.launches import TileLaunch
from rotorquant.ops.strides import dense

__all__ = ["attend", "chunk_kernel", "constants"]

# The widest tile that spills in no loop on any card (docs/log.md, 2026-11-22).
_COLUMNS = 256
# Larger than any sequence, and a position less it is still an int32.
_NO_WINDOW = 2**30
_LOG2_E = 1.4426950408889634


@triton.jit
def _columns(rows_ptr, seen, TILES: tl.constexpr, W: tl.constexpr, WIDE: tl.constexpr):
    """Tiles [rows, W] of whole rows; WIDE makes them float32."""
    tiles = ()
    for i in tl.static_range(TILES):
        one = tl.load(rows_ptr + i * W, mask=seen, other=0.0)
        if WIDE:
            one = one.to(tl.float32)
        tiles = tiles + (one,)  # type: ignore[assignment]
    return tiles


@triton.jit
def _zeros(ROWS: tl.constexpr, W: tl.constexpr, TILES: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(TILES):
        tiles = tiles + (tl.zeros((ROWS, W), tl.float32),)  # type: ignore[assignment]
    return tiles


@triton.jit
def _scores(query, rows, ROWS: tl.constexpr, KEYS: tl.constexpr, TILES: tl.constexpr):
    """Products [ROWS, KEYS] of rows that lie in tiles."""
    scores = tl.zeros((ROWS, KEYS), tl.float32)
    for i in tl.static_range(TILES):
        scores = tl.dot(query[i], tl.trans(rows[i]), scores)
    return scores


@triton.jit
def _sums(weight, rows, total, shrink, TILES: tl.constexpr):
    """`total`, shrunk, and the weighted sum of rows [KEYS, D], in tiles."""
    tiles = ()
    for i in tl.static_range(TILES):
        done = tl.dot(weight, rows[i], total[i] * shrink[:, None])
        tiles = tiles + (done,)  # type: ignore[assignment]
    return tiles


@triton.jit
def _put(rows_ptr, tiles, factor, seen, W: tl.constexpr, TILES: tl.constexpr):
    for i in tl.static_range(TILES):
        done = (tiles[i] * factor[:, None]).to(rows_ptr.dtype.element_ty)
        tl.store(rows_ptr + i * W, done, mask=seen)


# Specialized for what changes with every chunk, it would be compiled again for every chunk that is
# no multiple of 16. Without what it knows of `length`, `keys` and `mask_batch` the loop spills on
# sm_90.
@triton.jit(do_not_specialize=["first", "reach_batch"])
def chunk_kernel(
    query_ptr, key_ptr, value_ptr, reach_ptr, mask_ptr,
    top_ptr, mass_ptr, total_ptr, output_ptr,
    heads, group, length, keys, first, window, scaling,
    query_batch, query_head, query_token, key_batch, key_head, key_token,
    value_batch, value_head, value_token, reach_batch, reach_token, mask_batch, mask_token,
    output_batch, output_token, output_head,
    D: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    STAGES: tl.constexpr, REACH: tl.constexpr, MASK: tl.constexpr, BEFORE: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Rows (t, g) of queries [B, H G, T, D] over keys and values [B, H, N, D].

    Grid (row tiles, B H). Parts [B H, G, T, 1 or D] are contiguous float32, read where BEFORE, and
    written unless LAST, which writes the output [B, T, H G, D]. `scaling` has log2(e) in it.
    """
    TILES: tl.constexpr = D // W
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    # The tiles with most keys to see go first.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    # [ROWS], [1, W], [ROWS, W]
    row = tile * ROWS + tl.arange(0, ROWS)
    here = row < group * length
    token, member = row // group, row % group
    at = first + token
    column = tl.arange(0, W)[None, :]
    place = (head * group + member) * query_head + token.to(tl.int64) * query_token
    query_ptr += batch * query_batch
    query = _columns(query_ptr + place[:, None] + column, here[:, None], TILES, W, WIDE)
    last = at
    if REACH:
        reach = tl.load(reach_ptr + batch * reach_batch + token * reach_token, mask=here, other=0)
        last = tl.maximum(at, reach.to(tl.int32))
    last = tl.minimum(tl.where(here, last, -1), keys - 1)
    low = tl.maximum(tl.min(at) - window + 1, 0) // KEYS * KEYS
    high = tl.max(last) + 1
    oldest = at - window
    line = (both * group + member) * length + token
    top = tl.full((ROWS,), -1e30, tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    if BEFORE:
        # log2(e): parts hold natural exponents, while the loop works in powers of two.
        top = tl.load(top_ptr + line, mask=here, other=-1e30) * 1.4426950408889634
        mass = tl.load(mass_ptr + line, mask=here, other=0.0)
        total = _columns(total_ptr + line[:, None] * D + column, here[:, None], TILES, W, WIDE)
    else:
        total = _zeros(ROWS, W, TILES)
    key_ptr += batch * key_batch + head * key_head
    value_ptr += batch * value_batch + head * value_head
    for start in tl.range(low, high, KEYS, num_stages=STAGES):
        # [KEYS], [ROWS, KEYS]
        index = start + tl.arange(0, KEYS)
        there = index < keys
        spot = index.to(tl.int64)
        rows = key_ptr + (spot * key_token)[:, None] + column
        tiles = _columns(rows, there[:, None], TILES, W, WIDE)
        scores = _scores(query, tiles, ROWS, KEYS, TILES)
        seen = (index[None, :] <= last[:, None]) & (index[None, :] > oldest[:, None])
        if MASK:
            kept = tl.load(mask_ptr + batch * mask_batch + spot * mask_token, mask=there, other=0)
            seen = seen & (kept != 0)[None, :]
        scores = tl.where(seen, scores * scaling, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weight = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        mass = mass * shrink + tl.sum(weight, 1)
        top = higher
        rows = value_ptr + (spot * value_token)[:, None] + column
        tiles = _columns(rows, there[:, None], TILES, W, WIDE)
        if not WIDE:
            weight = weight.to(value_ptr.dtype.element_ty)
        total = _sums(weight, tiles, total, shrink, TILES)
    if LAST:
        # A row that saw nothing gives zeros.
        factor = 1.0 / tl.where(mass > 0.0, mass, 1.0)
        place = token.to(tl.int64) * output_token + (head * group + member) * output_head
        target = output_ptr + batch * output_batch + place[:, None] + column
        _put(target, total, factor, here[:, None], W, TILES)
    else:
        # ln(2), back to natural exponents.
        tl.store(top_ptr + line, top * 0.6931471805599453, mask=here)
        tl.store(mass_ptr + line, mass, mask=here)
        whole = tl.full((ROWS,), 1.0, tl.float32)
        _put(total_ptr + line[:, None] * D + column, total, whole, here[:, None], W, TILES)


def constants(head_dim: int, launch: TileLaunch) -> dict[str, int]:
    """What the kernel is compiled for by the launch table."""
    return {
        "D": head_dim,
        "W": min(head_dim, _COLUMNS),
        "ROWS": launch.block_rows,
        "KEYS": launch.block_keys,
        "STAGES": launch.num_stages,
    }


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    rules: Rules,
    before: Part | None,
    last: bool,
) -> torch.Tensor | Part:
    """The attention output where `last`, else the part, which is written over `before`."""
    batch, heads, length, head_dim = query.shape
    kv_heads, keys = key.shape[1:3]
    group = heads // kv_heads
    query, key, value = (dense(rows) for rows in (query, key, value))
    capability = dispatch.capability_of(query)
    launch = launch_config(head_dim, capability)
    part, output = before, query
    if last:
        output = torch.empty(batch, length, heads, head_dim, dtype=query.dtype, device=query.device)
    elif before is None:
        part = _new_part((batch, kv_heads, group, length), head_dim, query.device)
    # Kernels take no None: for what is never read another tensor stands.
    fields = (query,) * 3 if part is None else [field.contiguous() for field in part]
    reach = query if rules.reach is None else rules.reach
    mask = query if rules.key_mask is None else rules.key_mask.view(torch.uint8)
    chunk_kernel[(triton.cdiv(length * group, launch.block_rows), batch * kv_heads)](
        query, key, value, reach, mask, *fields, output,
        kv_heads, group, length, keys, rules.start,
        _NO_WINDOW if rules.window is None else rules.window, scaling * _LOG2_E,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        *reach.stride()[:2], *mask.stride()[:2], *output.stride()[:3],
        **constants(head_dim, launch),
        REACH=rules.reach is not None,
        MASK=rules.key_mask is not None,
        BEFORE=before is not None,
        LAST=last,
        # Off a card the interpreter runs, whose product of bfloat16 tiles is wrong.
        WIDE=capability == (0, 0),
        num_warps=launch.num_warps,
        enable_fp_fusion=True,
    )  # fmt: skip
    return output if last else Part(*fields)


def _new_part(grid: tuple[int, ...], head_dim: int, device: torch.device) -> Part:
    return Part(
        *(
            torch.empty(*grid, columns, dtype=torch.float32, device=device)
            for columns in (1, 1, head_dim)
        )
    )
