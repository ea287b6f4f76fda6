"""What the attention kernels are put together from; every function works on one tile.

A tuple stands for a tensor: its pointers, then its strides. Products are float16 on tensor cores:
queries are divided by their largest member first, table values and the keys of a model fit it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rotorquant.ops.dequantize.kernel import picked, tile

__all__ = [
    "advance",
    "gather",
    "products",
    "rows_at",
    "rows_of",
    "stored_part",
    "turned",
    "waves",
]


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
def waves(angle, ROUND: tl.constexpr):
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
def line_up(rows_ptr, row, here, column, seen):
    """Queries [CHUNKS, ROWS, WIDTH] float32: one line of pointers and columns, cut in chunks."""
    at = rows_ptr + row[None, :, None] + column
    return tl.load(at, mask=here[None, :, None] & seen, other=0.0)


@triton.jit
def largest(queries):
    """The largest member [ROWS] of queries [CHUNKS, ROWS, WIDTH]."""
    return tl.max(tl.max(tl.abs(queries), 2), 0)


@triton.jit
def unit(queries, size):
    """Queries divided by `size` [ROWS], as float16."""
    return (queries / tl.where(size > 0.0, size, 1.0)[None, :, None]).to(tl.float16)


@triton.jit
def products(queries, rows, KEYS: tl.constexpr, CHUNKS: tl.constexpr, WIDTH: tl.constexpr):
    """Scores [ROWS, KEYS] of queries [CHUNKS, ROWS, WIDTH] and rows [KEYS, CHUNKS WIDTH].

    A batch of products, one for each chunk: a warp holds its chunk of the queries, not all.
    """
    chunks = tl.permute(tl.reshape(rows, (KEYS, CHUNKS, WIDTH)), (1, 2, 0))
    return tl.sum(tl.dot(queries, chunks), 0)


@triton.jit
def rows_of(ptrs, extra_ptrs, table_ptr, seen, D: tl.constexpr, P: tl.constexpr, E: tl.constexpr):
    """Unscaled rows [KEYS, D] float16 in storage order; P is 16 for plain values of any dtype."""
    if P == 16:
        values = tl.load(ptrs + tl.arange(0, D)[None, :], mask=seen, other=0)
        return values.to(tl.float32).to(tl.float16)
    else:
        return tile(ptrs, extra_ptrs, table_ptr, seen, D, P, E)


@triton.jit
def rows_at(
    ptrs, extra_ptrs, table_ptr, seen, place,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Unscaled values [KEYS, PAIRS] float32 at places [1, PAIRS] of the rows."""
    if P == 16:
        return tl.load(ptrs + place, mask=seen, other=0).to(tl.float32)
    else:
        return picked(ptrs, extra_ptrs, table_ptr, seen, place, D, P, E)


@triton.jit
def turn_order(chunk, PAIRS: tl.constexpr, CHUNKS: tl.constexpr):
    """Columns [CHUNKS, 1, 4 PAIRS / CHUNKS] as `turned` joins them: pair, member, cosine or sine.

    Returns the pair of every column, and which of its four parts it is.
    """
    column = chunk * (4 * PAIRS // CHUNKS) + tl.arange(0, 4 * PAIRS // CHUNKS)[None, None, :]
    return column // 4, column % 2 * 2 + column // 2 % 2


@triton.jit
def turned(cos, sin, one, two, KEYS: tl.constexpr, PAIRS: tl.constexpr):
    """What the rotary part of a query meets [KEYS, 4 PAIRS] float16, in `turn_order`."""
    ones, twos = tl.join(cos * one, sin * one), tl.join(cos * two, sin * two)
    features = tl.permute(tl.join(ones, twos), (0, 1, 3, 2)).to(tl.float16)
    return tl.reshape(features, (KEYS, 4 * PAIRS))


@triton.jit
def advance(top, mass, total, scores, scale, values):
    """Take a tile into the running softmax; `scale` [KEYS] multiplies the values [KEYS, D]."""
    higher = tl.maximum(top, tl.max(scores, 1))
    weight = tl.exp(scores - higher[:, None])
    shrink = tl.exp(top - higher)
    mass = mass * shrink + tl.sum(weight, 1)
    weight = (weight * scale[None, :]).to(tl.float16)
    return higher, mass, tl.dot(weight, values, total * shrink[:, None])


@triton.jit
def gather(
    queries, line, here, pairs,
    D: tl.constexpr, PAIRS: tl.constexpr, BIAS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Queries [CHUNKS, ROWS, columns of a chunk] of `line` [ROWS], divided by `size` and `push`.

    Returns query, turn, bias (where PAIRS and BIAS say that they are there), size, push.
    """
    query_ptr, turn_ptr, bias_ptr = queries
    chunk = tl.arange(0, CHUNKS)[:, None, None]
    column = chunk * (D // CHUNKS) + tl.arange(0, D // CHUNKS)[None, None, :]
    query = line_up(query_ptr, line * D, here, column, column < D)
    size = largest(query)
    turn = query
    if PAIRS > 0:
        pair, part = turn_order(chunk, PAIRS, CHUNKS)
        turn = line_up(turn_ptr, line * (4 * pairs), here, part * pairs + pair, pair < pairs)
        size = tl.maximum(size, largest(turn))
        turn = unit(turn, size)
    query = unit(query, size)
    bias, push = query, size
    if BIAS:
        HALF: tl.constexpr = CHUNKS // 2
        chunk = tl.arange(0, HALF)[:, None, None]
        column = chunk * (2 * PAIRS // HALF) + tl.arange(0, 2 * PAIRS // HALF)[None, None, :]
        at = column % 2 * pairs + column // 2
        bias = line_up(bias_ptr, line * (2 * pairs), here, at, column // 2 < pairs)
        push = largest(bias)
        bias = unit(bias, push)
    return query, turn, bias, size, push


@triton.jit
def stored_part(
    queries, key, value, rope, mask, both, heads, row, rows, low, high, origin,
    D: tl.constexpr, KP: tl.constexpr, KE: tl.constexpr, VP: tl.constexpr, VE: tl.constexpr,
    SPLIT: tl.constexpr, PAIRS: tl.constexpr, ROUND: tl.constexpr, BIAS: tl.constexpr,
    MASK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STAGES: tl.constexpr,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    """The part (top, mass [ROWS], total [ROWS, D]) of stored keys `low` to `high`.

    queries: query [B, H, R, D], turn [B, H, R, 4 pairs], bias [B, H, R, 2 pairs], contiguous.
    key, value: `flat`; without SPLIT the keys are the values. rope, mask: `rotary`.
    both: batch and head. row: [ROWS] of R. origin: where key 0 stands in positions and mask.
    """
    batch, head = both // heads, both % heads
    key_ptr, extra_ptr, scale_ptr, table_ptr, kb, kh, kt, eb, eh, et, sb, sh, st = key
    first_ptr, second_ptr, frequencies_ptr, positions_ptr, pb, pt, pairs = rope
    mask_ptr, mb, mt = mask
    key_ptr += batch * kb + head * kh
    extra_ptr += batch * eb + head * eh
    scale_ptr += batch * sb + head * sh
    if SPLIT:
        value_ptr, more_ptr, size_ptr, values_ptr, vb, vh, vt, wb, wh, wt, zb, zh, zt = value
        value_ptr += batch * vb + head * vh
        more_ptr += batch * wb + head * wh
        size_ptr += batch * zb + head * zh
    query, turn, bias, size, push = gather(
        queries, both * rows + row, row < rows, pairs, D, PAIRS, BIAS, CHUNKS
    )
    # [1, PAIRS]
    if PAIRS > 0:
        pair = tl.arange(0, PAIRS)[None, :]
        first = tl.load(first_ptr + pair, mask=pair < pairs, other=0).to(tl.int32)
        second = tl.load(second_ptr + pair, mask=pair < pairs, other=0).to(tl.int32)
        frequency = tl.load(frequencies_ptr + pair, mask=pair < pairs, other=0.0)
    top = tl.full((ROWS,), -1e30, tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS, D), tl.float32)
    for start in tl.range(low, high, KEYS, num_stages=STAGES):
        # [KEYS]; planes [KEYS, 1]
        index = start + tl.arange(0, KEYS)
        seen = index < high
        place = index.to(tl.int64)
        there = seen[:, None]
        planes = key_ptr + (place * kt)[:, None]
        extras = extra_ptr + (place * et)[:, None]
        stored = rows_of(planes, extras, table_ptr, there, D, KP, KE)
        # [ROWS, KEYS]
        scores = products(query, stored, KEYS, CHUNKS, D // CHUNKS)
        if PAIRS > 0:
            where = positions_ptr + batch * pb + (place + origin) * pt
            position = tl.load(where, mask=seen, other=0).to(tl.float32)
            cos, sin = waves(position[:, None] * frequency, ROUND)
            one = rows_at(planes, extras, table_ptr, there, first, D, KP, KE)
            two = rows_at(planes, extras, table_ptr, there, second, D, KP, KE)
            features = turned(cos, sin, one, two, KEYS, PAIRS)
            scores += products(turn, features, KEYS, CHUNKS, 4 * PAIRS // CHUNKS)
        scale = tl.full((KEYS,), 1.0, tl.float32)
        if KP != 16:
            scale = tl.load(scale_ptr + place * st, mask=seen, other=0.0).to(tl.float32)
        scores *= size[:, None] * scale[None, :]
        if BIAS:
            both_waves = tl.interleave(cos, sin).to(tl.float16)
            pushed = products(bias, both_waves, KEYS, CHUNKS // 2, 4 * PAIRS // CHUNKS)
            scores += pushed * push[:, None]
        if SPLIT:
            scale = tl.full((KEYS,), 1.0, tl.float32)
            if VP != 16:
                scale = tl.load(size_ptr + place * zt, mask=seen, other=0.0).to(tl.float32)
            stored = rows_of(
                value_ptr + (place * vt)[:, None], more_ptr + (place * wt)[:, None], values_ptr,
                there, D, VP, VE,
            )  # fmt: skip
        if MASK:
            masked = mask_ptr + batch * mb + (place + origin) * mt
            seen = seen & (tl.load(masked, mask=seen, other=0) != 0)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        top, mass, total = advance(top, mass, total, scores, scale, stored)
    return top, mass, total
