"""One pass of a decode step on a GPU: packed rows and exact tokens, split over programs, joined.

The first programs of the grid take pieces of the packed rows, the others pieces of the exact
tokens; a second kernel joins all parts. How many tokens there are is read from the device. The
formulas are those of `reference.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.attend.kernel import constants, flat, rotary, widths
from rotorquant.ops.attend.launch import launch_config, splits_of
from rotorquant.ops.decode.reference import Decoded, Exact, RowQueries, Stored
from rotorquant.ops.launches import TileLaunch
from rotorquant.ops.tiles.kernel import (
    advance,
    chunked,
    gather,
    leave,
    pairs_at,
    rows_of,
    stored_part,
    turned,
    waves,
)

__all__ = ["decode", "decode_kernel", "merge_kernel"]


@triton.jit
def _token(slot, in_first, first, stored, length, window, WINDOW: tl.constexpr):
    """Where in the sequence the tokens of slots stand; negative for none."""
    if WINDOW:
        latest = length - 1
        # Triton's remainder takes the sign of the dividend, as C's does.
        ring = latest - (latest - slot + window) % window
        return tl.where(in_first, length - window - first + slot, ring)
    else:
        return tl.where(in_first, slot, first + stored + slot)


@triton.jit
def exact_part(
    queries, first, last, rope, mask, counts, both, heads, row, rows, steps, window, piece, pieces,
    D: tl.constexpr, SPLIT: tl.constexpr, SCALED: tl.constexpr, WINDOW: tl.constexpr,
    PAIRS: tl.constexpr, ROUND: tl.constexpr, MASK: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, STAGES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """The part (top, mass [ROWS], total [D, ROWS]) of one piece of the tiles of `first` and `last`.

    first, last: pointers to keys, values and their scales, then strides (`_buffers`). counts: first
    tokens, packed ones between, last ones, and all. WINDOW: `last` is a ring of `window` slots.
    """
    batch, head = both // heads, both % heads
    first_count, stored_count, last_count, length = counts
    frequencies_ptr, positions_ptr, pb, pt, pairs = rope
    mask_ptr, mb, mt = mask
    query, turn, _, size, _ = gather(
        queries, both * rows + row, row < rows, pairs, D, PAIRS, False, CHUNKS
    )
    # [1, PAIRS]
    pair = tl.arange(0, PAIRS if PAIRS > 0 else 1)[None, :]
    frequency = tl.load(frequencies_ptr + pair, mask=pair < pairs, other=0.0)
    # A query at `at` sees tokens up to itself
    at = length - steps + row % steps
    top = tl.full((ROWS,), -1e30, tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((CHUNKS, D // CHUNKS, ROWS), tl.float32)
    first_tiles = tl.cdiv(first_count, KEYS)
    tiles = first_tiles + tl.cdiv(last_count, KEYS)
    share = tl.cdiv(tiles, pieces)
    for turn_of in tl.range(
        piece * share, tl.minimum((piece + 1) * share, tiles), num_stages=STAGES
    ):
        in_first = turn_of < first_tiles
        base = tl.where(in_first, turn_of, turn_of - first_tiles) * KEYS
        slot = base + tl.arange(0, KEYS)
        seen = slot < tl.where(in_first, first_count, last_count)
        token = _token(slot, in_first, first_count, stored_count, length, window, WINDOW)
        seen = seen & (token >= 0)
        there = seen[:, None]
        place = (
            batch * tl.where(in_first, first[4], last[4])
            + head * tl.where(in_first, first[5], last[5])
            + slot.to(tl.int64) * tl.where(in_first, first[6], last[6])
        )
        keys = tl.where(in_first, first[0], last[0]) + place[:, None]
        stored = chunked(rows_of(keys, keys, keys, there, D, 16, 0), CHUNKS)
        # [CHUNKS, KEYS, ROWS]
        sums = tl.dot(stored, query)
        if PAIRS > 0:
            position = tl.load(
                positions_ptr + batch * pb + token.to(tl.int64) * pt, mask=seen, other=0
            )
            cos, sin = waves(position.to(tl.float32)[:, None] * frequency, ROUND)
            one, two = pairs_at(keys, keys, keys, there, pair, D, 16, 0)
            features = turned(cos, sin, one, two, KEYS, PAIRS, CHUNKS)
            sums = tl.dot(features, turn, sums)
        # [KEYS, ROWS]
        scores = tl.sum(sums, 0) * size[None, :]
        scale = tl.full((KEYS,), 1.0, tl.float32)
        if SCALED:
            at_scale = (
                batch * tl.where(in_first, first[7], last[7])
                + head * tl.where(in_first, first[8], last[8])
                + slot.to(tl.int64) * tl.where(in_first, first[9], last[9])
            )
            scale = tl.load(
                tl.where(in_first, first[2], last[2]) + at_scale, mask=seen, other=0.0
            ).to(tl.float32)
            scores *= scale[:, None]
            scale = tl.load(
                tl.where(in_first, first[3], last[3]) + at_scale, mask=seen, other=0.0
            ).to(tl.float32)
        if SPLIT:
            values = tl.where(in_first, first[1], last[1]) + place[:, None]
            stored = chunked(rows_of(values, values, values, there, D, 16, 0), CHUNKS)
        if MASK:
            masked = mask_ptr + batch * mb + token.to(tl.int64) * mt
            seen = seen & (tl.load(masked, mask=seen, other=0) != 0)
        visible = seen[:, None] & (token[:, None] <= at[None, :])
        if WINDOW:
            visible = visible & (token[:, None] > at[None, :] - window)
        scores = tl.where(visible, scores, float("-inf"))
        top, mass, total = advance(top, mass, total, scores, scale, stored)
    return top, mass, total


@triton.jit(do_not_specialize=["rows", "first_slots", "steps", "far_pieces"])
def decode_kernel(
    near, far, key, value, first, last, rope, far_rope, mask, counts_ptr, parts,
    heads, rows, first_slots, steps, window, far_pieces,
    D: tl.constexpr, KP: tl.constexpr, KE: tl.constexpr, VP: tl.constexpr, VE: tl.constexpr,
    SPLIT: tl.constexpr, PAIRS: tl.constexpr, ROUND: tl.constexpr, FAR: tl.constexpr,
    BIAS: tl.constexpr, MASK: tl.constexpr, WINDOW: tl.constexpr, SCALED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """One part over one piece: top, mass [B H, S, R] and total [B H, S, R, D].

    Grid (S, row tiles, B H), of whose pieces the first `far_pieces` are of packed rows.
    """
    piece = tl.program_id(0)
    both = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    count = tl.load(counts_ptr).to(tl.int32)
    between = tl.load(counts_ptr + 1).to(tl.int32)
    latest = tl.load(counts_ptr + 2).to(tl.int32)
    length = count + between + latest
    if WINDOW:
        count, length = first_slots, latest
        latest = tl.minimum(latest, window)
    if FAR and piece < far_pieces:
        share = tl.cdiv(tl.cdiv(between, KEYS), far_pieces) * KEYS
        low = piece * share
        top, mass, total = stored_part(
            far, key, value, far_rope, mask, both, heads, row, rows,
            low, tl.minimum(low + share, between), count,
            D, KP, KE, VP, VE, SPLIT, PAIRS, ROUND, BIAS, MASK, ROWS, KEYS, STAGES, CHUNKS,
        )  # fmt: skip
    else:
        top, mass, total = exact_part(
            near, first, last, rope, mask, (count, between, latest, length),
            both, heads, row, rows, steps, window,
            piece - far_pieces, tl.num_programs(0) - far_pieces,
            D, SPLIT, SCALED, WINDOW, PAIRS, ROUND, MASK, ROWS, KEYS, STAGES, CHUNKS,
        )  # fmt: skip
    line = (both * tl.num_programs(0) + piece) * rows + row
    leave(parts, top, mass, total, line, row < rows, D)


@triton.jit(do_not_specialize=["pieces", "far_pieces", "rows"])
def merge_kernel(
    parts, shift_ptr, near_ptr, far_ptr, share_ptr, pieces, far_pieces, rows,
    D: tl.constexpr, FAR: tl.constexpr, SHIFT: tl.constexpr, PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Join the parts: `Decoded` as [B H, R, D], and [B H, R] for the share.

    Grid (B H, R, D / WIDTH). `shift` [B H, R] is added to the scores of packed rows.
    """
    both, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    # [PIECES], [PIECES, WIDTH]
    piece = tl.arange(0, PIECES)
    there, is_far = piece < pieces, piece < far_pieces
    line = (both * pieces + piece) * rows + row
    place = both * rows + row
    tops = tl.load(parts[0] + line, mask=there, other=-1e30)
    if SHIFT:
        tops += tl.where(is_far, tl.load(shift_ptr + place), 0.0)
    masses = tl.load(parts[1] + line, mask=there, other=0.0)
    # A part that saw nothing has no say in the common top
    top = tl.max(tl.where(masses > 0.0, tops, -1e30), 0)
    weight = tl.where(masses > 0.0, tl.exp(tops - top), 0.0)
    masses *= weight
    # The smallest normal float32: a row that saw nothing divides zeros by it.
    mass = tl.maximum(tl.sum(masses, 0), 1.1754943508222875e-38)
    dims = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    at = parts[2] + line[:, None] * D + dims[None, :]
    totals = weight[:, None] * tl.load(at, mask=there[:, None], other=0.0)
    if FAR:
        far = tl.sum(tl.where(is_far[:, None], totals, 0.0), 0)
        tl.store(far_ptr + place * D + dims, far / mass)
        totals = tl.where(is_far[:, None], 0.0, totals)
        if tl.program_id(2) == 0:
            share = tl.sum(tl.where(is_far, masses, 0.0), 0)
            tl.store(share_ptr + place, share / mass)
    tl.store(near_ptr + place * D + dims, tl.sum(totals, 0) / mass)


def decode(
    near: RowQueries,
    first: Exact,
    last: Exact,
    counts: torch.Tensor,
    steps: int,
    window: int | None,
    key_mask: torch.Tensor | None,
    far: RowQueries | None,
    stored: Stored | None,
    dtype: torch.dtype = torch.float32,
) -> Decoded:
    """A decode step [B, H, R, D] in two launches; D is one of `attend.launch.HEAD_DIMS`."""
    batch, heads, rows, head_dim = near.query.shape
    pairs = 0 if near.rope is None else len(near.rope.first)
    bias = far is not None and far.rope is not None and far.rope.bias is not None
    key, table = (last.key, None) if stored is None else (stored.key, stored.table)
    value, value_table = (last.value, None) if stored is None else (stored.value, stored.values)
    wide = widths(key, table), widths(value or key, value_table)
    launch = launch_config(
        head_dim, max(map(sum, wide)), rows, pairs, bias, dispatch.capability_of(near.query)
    )
    tiles = triton.cdiv(rows, launch.block_rows)
    pieces, far_pieces = _pieces(first, last, stored, batch * heads * tiles, launch)
    parts = tuple(_new(near, batch * heads, pieces, rows, size) for size in (1, 1, head_dim))
    queries, places, rounding = rotary(near.query, near.rope, last.key)
    far_queries, far_places, _ = (
        (queries, places, rounding) if far is None else rotary(far.query, far.rope, key)
    )
    mask = key.primary[:, 0, :, 0] if key_mask is None else key_mask.view(torch.uint8)
    decode_kernel[(pieces, tiles, batch * heads)](
        queries, far_queries, flat(key, table), flat(value or key, value_table),
        _buffers(first), _buffers(last), places, far_places, (mask, *mask.stride()), counts, parts,
        heads, rows, first.key.primary.shape[2], steps, window or 0, far_pieces,
        **constants(head_dim, wide[0], None if last.value is None else wide[1], pairs, launch),
        ROUND=rounding, FAR=stored is not None, BIAS=bias, MASK=key_mask is not None,
        WINDOW=window is not None, SCALED=last.key.scale is not None,
        num_warps=launch.num_warps, enable_fp_fusion=True, **dispatch.registers(launch.num_warps),
    )  # fmt: skip
    shift = None if far is None else far.shift
    return _merged(parts, near, shift, far_pieces, torch.float32 if far_pieces else dtype)


def _pieces(
    first: Exact, last: Exact, stored: Stored | None, programs: int, launch: TileLaunch
) -> tuple[int, int]:
    """How many pieces there are, and how many of them are of packed rows."""
    processors = dispatch.processors_of(last.key.primary)
    slots = first.key.primary.shape[2] + last.key.primary.shape[2]
    pieces = splits_of(slots, programs, launch, processors)
    if stored is None:
        return pieces, 0
    far_pieces = splits_of(stored.key.primary.shape[2], programs, launch, processors)
    # A few programs take the exact tokens along; they must not outlast the others
    return min(pieces, -(-slots // (4 * launch.block_keys))) + far_pieces, far_pieces


def _new(near: RowQueries, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=near.query.device)


def _merged(
    parts: tuple[torch.Tensor, ...],
    near: RowQueries,
    shift: torch.Tensor | None,
    far_pieces: int,
    dtype: torch.dtype,
) -> Decoded:
    """The parts [B H, S, R, ...] as one."""
    batch, heads, rows, head_dim = near.query.shape
    mean, far, share = _new(near, batch, heads, rows, head_dim, dtype=dtype), None, None
    if far_pieces:
        far, share = _new(near, *mean.shape), _new(near, batch, heads, rows, 1)
    pieces, width = parts[0].shape[1], min(64, head_dim)
    merge_kernel[(batch * heads, rows, head_dim // width)](
        parts, mean if shift is None else shift.contiguous(), mean,
        mean if far is None else far, mean if share is None else share, pieces, far_pieces, rows,
        D=head_dim, FAR=far_pieces > 0, SHIFT=shift is not None,
        PIECES=triton.next_power_of_2(pieces), WIDTH=width, enable_fp_fusion=True,
    )  # fmt: skip
    return Decoded(mean, far, share)


def _buffers(tokens: Exact) -> tuple[torch.Tensor | int, ...]:
    """Pointers to keys, values and their scales; strides of the former and of the latter."""
    key, value = tokens.key, tokens.key if tokens.value is None else tokens.value
    scales = [key.primary[..., 0] if rows.scale is None else rows.scale for rows in (key, value)]
    strides = key.primary.stride(), scales[0].stride()
    if (value.primary.stride(), scales[1].stride()) != strides or strides[0][-1] != 1:
        raise ValueError("keys and values must lie alike, values of a vector next to each other")
    return key.primary, value.primary, *scales, *strides[0][:3], *strides[1]
