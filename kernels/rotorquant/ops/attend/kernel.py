"""Attention of a few queries over packed keys on a GPU; the formulas are those of `reference.py`.

The keys are split among programs, which leave parts; a second kernel joins them. A program decodes
a tile of rows once for scores and sums. Products are float16 on tensor cores: table values fit it,
queries are divided by their largest member first; sums, softmax and angles are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.attend.launch import Launch, launch_config, splits_of
from rotorquant.ops.attend.reference import Part, Rope, Rows
from rotorquant.ops.dequantize.kernel import picked, tile

__all__ = ["attend_kernel", "attend_packed", "constants", "merge_kernel"]

_ROUNDING = {torch.bfloat16: 16, torch.float16: 15, torch.float32: 32}
# Else the assembler spills a few in order to fit one program more on a processor. CUDA's alone.
_REGISTERS = {} if torch.version.hip else {"maxnreg": 255}


@triton.jit
def _rounded(wave, ROUND: tl.constexpr):
    """A float32 wave as the model has it: bfloat16 for 16, float16 for 15."""
    if ROUND == 16:
        return wave.to(tl.bfloat16).to(tl.float32)
    elif ROUND == 15:
        return wave.to(tl.float16).to(tl.float32)
    else:
        return wave


@triton.jit
def _waves(angle, ROUND: tl.constexpr):
    """Cosine and sine of float32 angles of up to 2**19 quarter turns, to 2e-7.

    Quarter turns are taken off first: pi / 2 = 1.5625 + 0.00830078125 - 4.454455e-6, the first two
    short enough that their products with the number of turns are exact (Cody and Waite 1980); the
    rest is Taylor's. Triton's own functions hold a slow path with float64 and local memory.
    """
    turns = tl.floor(angle * 0.6366197723675814 + 0.5)
    x = (angle - turns * 1.5625) - turns * 0.00830078125
    x = x + turns * 4.4544551033807686e-6
    z = x * x
    sin = x + x * z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880))))
    cos = 1.0 + z * (-0.5 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320))))
    quarter = turns.to(tl.int32)
    odd = (quarter & 1) == 1
    cos, sin = tl.where(odd, sin, cos), tl.where(odd, cos, sin)
    cos = tl.where(((quarter + 1) & 2) == 0, cos, -cos)
    sin = tl.where((quarter & 2) == 0, sin, -sin)
    return _rounded(cos, ROUND), _rounded(sin, ROUND)


@triton.jit
def _line_up(rows_ptr, row, here, column, seen):
    """Queries [CHUNKS, ROWS, WIDTH] float32: one line of pointers and columns, cut in chunks."""
    at = rows_ptr + row[None, :, None] + column
    return tl.load(at, mask=here[None, :, None] & seen, other=0.0)


@triton.jit
def _largest(queries):
    """The largest member [ROWS] of queries [CHUNKS, ROWS, WIDTH]."""
    return tl.max(tl.max(tl.abs(queries), 2), 0)


@triton.jit
def _unit(queries, size):
    """Queries divided by `size` [ROWS], as float16."""
    return (queries / tl.where(size > 0.0, size, 1.0)[None, :, None]).to(tl.float16)


@triton.jit
def _products(queries, rows, KEYS: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr):
    """Scores [ROWS, KEYS] of queries [CHUNKS, ROWS, WIDTH] and rows [KEYS, CHUNKS WIDTH].

    A batch of products, one for each chunk: a warp holds its chunk of the queries, not all.
    """
    chunks = tl.permute(tl.reshape(rows, (KEYS, CHUNKS, WIDTH)), (1, 2, 0))
    return tl.sum(tl.dot(queries, chunks), 0)


@triton.jit
def attend_kernel(
    query_ptr, turn_ptr, bias_ptr,
    key_ptr, key_extra_ptr, key_scale_ptr, key_table_ptr,
    value_ptr, value_extra_ptr, value_scale_ptr, value_table_ptr,
    first_ptr, second_ptr, frequencies_ptr, positions_ptr, mask_ptr, length_ptr,
    top_ptr, mass_ptr, total_ptr,
    heads, rows, keys, pairs,
    key_batch, key_head, key_token, key_extra_batch, key_extra_head, key_extra_token,
    key_scale_batch, key_scale_head, key_scale_token,
    value_batch, value_head, value_token, value_extra_batch, value_extra_head, value_extra_token,
    value_scale_batch, value_scale_head, value_scale_token,
    position_batch, position_token, mask_batch, mask_token,
    D: tl.constexpr, KP: tl.constexpr, KE: tl.constexpr, VP: tl.constexpr, VE: tl.constexpr,
    SPLIT: tl.constexpr, PAIRS: tl.constexpr, ROUND: tl.constexpr, BIAS: tl.constexpr,
    MASK: tl.constexpr, LENGTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    STAGES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """One part over one piece of the keys: top, mass [B H, S, R] and total [B H, S, R, D].

    Grid (S, row tiles, B H). Queries [B, H, R, D], `turn` [B, H, R, 4 pairs] and `bias`
    [B, H, R, 2 pairs] are contiguous float32. SPLIT: values are rows of their own, else the keys
    serve. PAIRS is the room for the pairs, 0 without a rotary part.
    """
    piece, pieces = tl.program_id(0), tl.num_programs(0)
    both = tl.program_id(2).to(tl.int64)
    batch, head = both // heads, both % heads
    if LENGTH:
        keys = tl.minimum(keys, tl.load(length_ptr).to(tl.int32))
    share = tl.cdiv(tl.cdiv(keys, KEYS), pieces) * KEYS
    low = piece * share
    high = tl.minimum(low + share, keys)
    key_ptr += batch * key_batch + head * key_head
    key_extra_ptr += batch * key_extra_batch + head * key_extra_head
    key_scale_ptr += batch * key_scale_batch + head * key_scale_head
    value_ptr += batch * value_batch + head * value_head
    value_extra_ptr += batch * value_extra_batch + head * value_extra_head
    value_scale_ptr += batch * value_scale_batch + head * value_scale_head
    # [ROWS]; queries [CHUNKS, ROWS, columns of a chunk]
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    here = row < rows
    line = both * rows + row
    chunk = tl.arange(0, CHUNKS)[:, None, None]
    column = chunk * (D // CHUNKS) + tl.arange(0, D // CHUNKS)[None, None, :]
    query = _line_up(query_ptr, line * D, here, column, column < D)
    size = _largest(query)
    if PAIRS > 0:
        # The order in which joined features lie: pair, member of the pair, cosine or sine.
        column = chunk * (4 * PAIRS // CHUNKS) + tl.arange(0, 4 * PAIRS // CHUNKS)[None, None, :]
        part = column % 2 * 2 + column // 2 % 2
        at = part * pairs + column // 4
        turn = _line_up(turn_ptr, line * (4 * pairs), here, at, column // 4 < pairs)
        size = tl.maximum(size, _largest(turn))
        turn = _unit(turn, size)
        # [1, PAIRS]
        pair = tl.arange(0, PAIRS)[None, :]
        turned = pair < pairs
        first = tl.load(first_ptr + pair, mask=turned, other=0).to(tl.int32)
        second = tl.load(second_ptr + pair, mask=turned, other=0).to(tl.int32)
        frequency = tl.load(frequencies_ptr + pair, mask=turned, other=0.0)
    query = _unit(query, size)
    if BIAS:
        HALF: tl.constexpr = CHUNKS // 2
        chunk = tl.arange(0, HALF)[:, None, None]
        column = chunk * (2 * PAIRS // HALF) + tl.arange(0, 2 * PAIRS // HALF)[None, None, :]
        at = column % 2 * pairs + column // 2
        bias = _line_up(bias_ptr, line * (2 * pairs), here, at, column // 2 < pairs)
        push = _largest(bias)
        bias = _unit(bias, push)
    top = tl.full((ROWS,), -1e30, tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS, D), tl.float32)
    for start in tl.range(low, high, KEYS, num_stages=STAGES):
        # [KEYS]; planes [KEYS, 1]
        index = start + tl.arange(0, KEYS)
        seen = index < high
        place = index.to(tl.int64)
        there = seen[:, None]
        planes = key_ptr + (place * key_token)[:, None]
        extras = key_extra_ptr + (place * key_extra_token)[:, None]
        stored = tile(planes, extras, key_table_ptr, there, D, KP, KE)
        # [ROWS, KEYS]
        scores = _products(query, stored, KEYS, CHUNKS, D // CHUNKS)
        if PAIRS > 0:
            where = positions_ptr + batch * position_batch + place * position_token
            position = tl.load(where, mask=seen, other=0).to(tl.float32)
            cos, sin = _waves(position[:, None] * frequency, ROUND)
            one = picked(planes, extras, key_table_ptr, there, first, D, KP, KE)
            two = picked(planes, extras, key_table_ptr, there, second, D, KP, KE)
            ones, twos = tl.join(cos * one, sin * one), tl.join(cos * two, sin * two)
            features = tl.permute(tl.join(ones, twos), (0, 1, 3, 2)).to(tl.float16)
            features = tl.reshape(features, (KEYS, 4 * PAIRS))
            scores += _products(turn, features, KEYS, CHUNKS, 4 * PAIRS // CHUNKS)
        scale = tl.load(key_scale_ptr + place * key_scale_token, mask=seen, other=0.0)
        scores *= size[:, None] * scale.to(tl.float32)[None, :]
        if BIAS:
            waves = tl.interleave(cos, sin).to(tl.float16)
            waves = _products(bias, waves, KEYS, HALF, 2 * PAIRS // HALF)
            scores += waves * push[:, None]
        if MASK:
            masked = mask_ptr + batch * mask_batch + place * mask_token
            seen = seen & (tl.load(masked, mask=seen, other=0) != 0)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        if SPLIT:
            scale = tl.load(
                value_scale_ptr + place * value_scale_token, mask=index < high, other=0.0
            )
            stored = tile(
                value_ptr + (place * value_token)[:, None],
                value_extra_ptr + (place * value_extra_token)[:, None],
                value_table_ptr, there, D, VP, VE,
            )  # fmt: skip
        higher = tl.maximum(top, tl.max(scores, 1))
        weight = tl.exp(scores - higher[:, None])
        shrink = tl.exp(top - higher)
        mass = mass * shrink + tl.sum(weight, 1)
        weight = (weight * scale.to(tl.float32)[None, :]).to(tl.float16)
        total = tl.dot(weight, stored, total * shrink[:, None])
        top = higher
    line = (both * pieces + piece) * rows + row
    tl.store(top_ptr + line, top, mask=here)
    tl.store(mass_ptr + line, mass, mask=here)
    tl.store(total_ptr + line[:, None] * D + tl.arange(0, D)[None, :], total, mask=here[:, None])


@triton.jit
def merge_kernel(
    tops_ptr, masses_ptr, totals_ptr, top_ptr, mass_ptr, total_ptr, pieces, rows,
    D: tl.constexpr, PIECES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Join the parts of all pieces; grid (B H, R, D / WIDTH), shapes as `attend_kernel` leaves."""
    both, row = tl.program_id(0).to(tl.int64), tl.program_id(1)
    # [PIECES], [PIECES, WIDTH]
    piece = tl.arange(0, PIECES)
    there = piece < pieces
    line = (both * pieces + piece) * rows + row
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
    launch: Launch,
) -> dict[str, int]:
    """What the kernel is compiled for, but ROUND, BIAS, MASK and LENGTH.

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
    table: torch.Tensor,
    rope: Rope | None,
    key_mask: torch.Tensor | None,
    value_table: torch.Tensor | None,
    length: torch.Tensor | None = None,
) -> Part:
    """See `rotorquant.ops.attend.attend_packed`; D is one of `launch.HEAD_DIMS`."""
    batch, heads, rows, head_dim = query.shape
    keys = key.primary.shape[2]
    value_table = table if value_table is None else value_table
    moved = rope is not None and rope.bias is not None
    pairs = 0 if rope is None else len(rope.first)
    capability = dispatch.capability_of(query)
    bits = max(sum(_widths(table)), sum(_widths(value_table)))
    launch = launch_config(head_dim, bits, pairs, moved, capability)
    tiles = triton.cdiv(rows, launch.block_rows)
    pieces = splits_of(keys, batch * heads * tiles, launch, dispatch.processors_of(query))

    def new(*columns: int) -> torch.Tensor:
        return torch.empty(batch * heads, *columns, dtype=torch.float32, device=query.device)

    parts = new(pieces, rows), new(pieces, rows), new(pieces, rows, head_dim)
    fields, strides = _flat(key, table)
    value_fields, value_strides = (fields, strides) if value is None else _flat(value, value_table)
    queries, places, positions, rounding = _rotary(query.contiguous(), rope, key)
    mask = positions if key_mask is None else key_mask.view(torch.uint8)
    attend_kernel[(pieces, tiles, batch * heads)](
        *queries, *fields, *value_fields, *places, positions, mask,
        places[0] if length is None else length,
        *parts, heads, rows, keys, pairs,
        *strides, *value_strides, *positions.stride(), *mask.stride(),
        **constants(
            head_dim, _widths(table), None if value is None else _widths(value_table), pairs, launch
        ),
        ROUND=rounding,
        BIAS=moved,
        MASK=key_mask is not None,
        LENGTH=length is not None,
        num_warps=launch.num_warps,
        enable_fp_fusion=True,
        **_REGISTERS,
    )  # fmt: skip
    if pieces > 1:
        whole = new(rows), new(rows), new(rows, head_dim)
        width = min(64, head_dim)
        merge_kernel[(batch * heads, rows, head_dim // width)](
            *parts, *whole, pieces, rows,
            D=head_dim, PIECES=triton.next_power_of_2(pieces), WIDTH=width,
            enable_fp_fusion=True,
        )  # fmt: skip
        parts = whole
    top, mass, total = (part.view(batch, heads, rows, -1) for part in parts)
    return Part(top, mass, total)


def _rotary(
    query: torch.Tensor, rope: Rope | None, key: Rows
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, int]:
    """Queries, places and frequencies, positions and rounding, in the kernel's order.

    What is not there, and never read, another tensor stands for.
    """
    if rope is None:
        return [query] * 3, [query] * 3, key.primary[:, 0, :, 0], 32
    queries = (query, rope.query, query if rope.bias is None else rope.bias)
    places = (rope.first, rope.second, rope.frequencies)
    return (
        [each.contiguous() for each in queries],
        [each.contiguous() for each in places],
        rope.positions,
        _ROUNDING[rope.dtype],
    )


def _flat(rows: Rows, table: torch.Tensor) -> tuple[list[torch.Tensor], list[int]]:
    """Pointers and strides in the kernel's order; what is missing is stood for."""
    assert rows.scale is not None
    planes = [_dense(rows.primary), _dense(rows.primary if rows.extra is None else rows.extra)]
    strides = [*planes[0].stride()[:3], *planes[1].stride()[:3], *rows.scale.stride()]
    return [*planes, rows.scale, table.contiguous()], strides


def _dense(plane: torch.Tensor) -> torch.Tensor:
    return plane if plane.stride(-1) == 1 else plane.contiguous()


def _widths(table: torch.Tensor) -> tuple[int, int]:
    """Primary and extra bits of a decode table [2**(8 + group bits), fields]."""
    fields = table.shape[1]
    return 8 // fields, (table.shape[0].bit_length() - 9) // fields
