"""What the attention kernels are put together from; every function works on one tile.

A tuple stands for a tensor: its pointers, then its strides. Products are float16 on tensor cores:
queries are divided by their largest member first, table values and the keys of a model fit it.
Scores lie as [KEYS, ROWS] and sums as [D, ROWS], for a tensor core takes 16 of the first and but 8
of the second, and a decode step has few rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from rotorquant.ops.dequantize.kernel import pairs_of, tile

__all__ = [
    "advance",
    "chunked",
    "gather",
    "leave",
    "pairs_at",
    "rows_of",
    "stored_part",
    "turned",
    "waves",
]

# The device's own approximations; HIP and the interpreter have none of this name.
FAST = tl.constexpr(not triton.knobs.runtime.interpret and torch.version.hip is None)


@triton.jit
def _rounded(wave, ROUND: tl.constexpr):
    """A float32 wave as the model has it, bfloat16 for 16, float16 for 15; and as float16.

    Rounded in its bits, half away from zero: a conversion takes a slow unit of the device.
    """
    if ROUND == 16:
        bits = (wave.to(tl.int32, bitcast=True) + 0x8000) & -0x10000
        wave = bits.to(tl.float32, bitcast=True)
    if ROUND != 32:
        wave = wave.to(tl.float16)
    return wave


@triton.jit
def waves(angle, ROUND: tl.constexpr):
    """Cosine and sine, rounded, of float32 angles of up to 2**17 turns.

    Whole turns are taken off first, by 2 pi as the sum of two floats, in products that are not
    rounded. What is left lies in [-pi, pi], where the device's approximations are off by 2**-20.5
    at most (PTX ISA). Triton's own functions hold a slow path with float64 and local memory.
    """
    if FAST:
        # Adding and taking off 3 * 2**22 rounds to the nearest whole number
        turns = (angle * 0.15915494309189535 + 12582912.0) - 12582912.0
        angle = tl.fma(turns, -6.2831854820251465, angle)
        angle = tl.fma(turns, 1.7484555314695172e-7, angle)
        cos, sin = libdevice.fast_cosf(angle), libdevice.fast_sinf(angle)
    else:
        cos, sin = tl.cos(angle), tl.sin(angle)
    return _rounded(cos, ROUND), _rounded(sin, ROUND)


@triton.jit
def power(x):
    """e to the x; without a path for results below 1e-38."""
    if FAST:
        return libdevice.fast_expf(x)
    else:
        return tl.exp(x)


@triton.jit
def line_up(rows_ptr, row, here, column, seen):
    """Queries [CHUNKS, WIDTH, ROWS] float32: one line of pointers and columns, cut in chunks."""
    at = rows_ptr + row[None, None, :] + column
    return tl.load(at, mask=here[None, None, :] & seen, other=0.0)


@triton.jit
def largest(queries):
    """The largest member [ROWS] of queries [CHUNKS, WIDTH, ROWS]."""
    return tl.max(tl.max(tl.abs(queries), 1), 0)


@triton.jit
def unit(queries, size):
    """Queries divided by `size` [ROWS], as float16."""
    # float16 ends at 65,504; scores get the size back.
    return (queries / tl.where(size > 0.0, size, 1.0)[None, None, :]).to(tl.float16)


@triton.jit
def chunked(rows, CHUNKS: tl.constexpr):
    """Rows [KEYS, D] as [CHUNKS, KEYS, D / CHUNKS], for a batch of products with queries.

    A warp then holds its chunk of the queries, not all.
    """
    KEYS: tl.constexpr = rows.shape[0]
    return tl.permute(tl.reshape(rows, (KEYS, CHUNKS, rows.shape[1] // CHUNKS)), (1, 0, 2))


@triton.jit
def rows_of(ptrs, extra_ptrs, table_ptr, seen, D: tl.constexpr, P: tl.constexpr, E: tl.constexpr):
    """Unscaled rows [KEYS, D] float16 in storage order; P is 16 for plain values of any dtype."""
    if P == 16:
        values = tl.load(ptrs + tl.arange(0, D)[None, :], mask=seen, other=0)
        return values.to(tl.float32).to(tl.float16)
    else:
        return tile(ptrs, extra_ptrs, table_ptr, seen, D, P, E)


@triton.jit
def pairs_at(
    ptrs, extra_ptrs, table_ptr, seen, pair,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Unscaled float16 values [KEYS, PAIRS] of dimensions `pair` [1, PAIRS] and `pair` + D/2."""
    if P == 16:
        one = tl.load(ptrs + pair, mask=seen, other=0).to(tl.float32).to(tl.float16)
        two = tl.load(ptrs + pair + D // 2, mask=seen, other=0).to(tl.float32).to(tl.float16)
        return one, two
    else:
        return pairs_of(ptrs, extra_ptrs, table_ptr, seen, pair, D, P, E)


@triton.jit
def turn_order(chunk, PAIRS: tl.constexpr, CHUNKS: tl.constexpr):
    """Columns [CHUNKS, 4 PAIRS / CHUNKS, 1] as `turned` leaves them.

    Returns the pair of every column, and which of its four parts it is.
    """
    column = tl.arange(0, 4 * PAIRS // CHUNKS)[None, :, None]
    return column // 4 * CHUNKS + chunk, column % 4


@triton.jit
def turned(
    cos, sin, one, two, KEYS: tl.constexpr, PAIRS: tl.constexpr, CHUNKS: tl.constexpr
):  # fmt: skip
    """What the rotary part of a query meets [CHUNKS, KEYS, 4 PAIRS / CHUNKS] float16.

    Pairs that stand next to each other go to different chunks: they lie in one thread.
    """
    ones, twos = tl.join(cos * one, sin * one), tl.join(cos * two, sin * two)
    features = tl.join(ones, twos).to(tl.float16)
    features = tl.reshape(features, (KEYS, PAIRS // CHUNKS, CHUNKS, 4))
    features = tl.permute(features, (2, 0, 1, 3))
    return tl.reshape(features, (CHUNKS, KEYS, 4 * PAIRS // CHUNKS))


@triton.jit
def advance(top, mass, total, scores, scale, values):
    """Take a tile into the running softmax; `scale` [KEYS] multiplies the values [KEYS, D]."""
    higher = tl.maximum(top, tl.max(scores, 0))
    weight = power(scores - higher[None, :])
    shrink = power(top - higher)
    mass = mass * shrink + tl.sum(weight, 0)
    # The rows' scale goes to the weights: KEYS factors instead of KEYS x D.
    weight = (weight * scale[:, None]).to(tl.float16)
    CHUNKS: tl.constexpr = values.shape[0]
    weights = tl.broadcast_to(weight[None, :, :], (CHUNKS, weight.shape[0], weight.shape[1]))
    total = tl.dot(tl.permute(values, (0, 2, 1)), weights, total * shrink[None, None, :])
    return higher, mass, total


@triton.jit
def leave(parts, top, mass, total, line, here, D: tl.constexpr):
    """Store a part: top and mass [ROWS], total [D, ROWS], to lines [ROWS]."""
    tl.store(parts[0] + line, top, mask=here)
    tl.store(parts[1] + line, mass, mask=here)
    CHUNKS: tl.constexpr = total.shape[0]
    chunk = tl.arange(0, CHUNKS)[:, None, None]
    column = chunk * (D // CHUNKS) + tl.arange(0, D // CHUNKS)[None, :, None]
    tl.store(parts[2] + line[None, None, :] * D + column, total, mask=here[None, None, :])


@triton.jit
def gather(
    queries, line, here, pairs,
    D: tl.constexpr, PAIRS: tl.constexpr, BIAS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Queries [CHUNKS, columns of a chunk, ROWS] of `line` [ROWS], divided by `size` and `push`.

    Returns query, turn, bias (where PAIRS and BIAS say that they are there), size, push.
    """
    query_ptr, turn_ptr, bias_ptr = queries
    chunk = tl.arange(0, CHUNKS)[:, None, None]
    column = chunk * (D // CHUNKS) + tl.arange(0, D // CHUNKS)[None, :, None]
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
        # Half the columns of the rotary part: in half the chunks each has the 16 of a tensor core.
        HALF: tl.constexpr = CHUNKS // 2
        chunk = tl.arange(0, HALF)[:, None, None]
        column = chunk * (2 * PAIRS // HALF) + tl.arange(0, 2 * PAIRS // HALF)[None, :, None]
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
    """The part (top, mass [ROWS], total [D, ROWS]) of stored keys `low` to `high`.

    queries: query [B, H, R, D], turn [B, H, R, 4 pairs], bias [B, H, R, 2 pairs], contiguous.
    key, value: `flat`; without SPLIT the keys are the values. rope, mask: `rotary`.
    both: batch and head. row: [ROWS] of R. origin: where key 0 stands in positions and mask.
    """
    batch, head = both // heads, both % heads
    key_ptr, extra_ptr, scale_ptr, table_ptr, kb, kh, kt, eb, eh, et, sb, sh, st = key
    frequencies_ptr, positions_ptr, pb, pt, pairs = rope
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
    pair = tl.arange(0, PAIRS if PAIRS > 0 else 1)[None, :]
    frequency = tl.load(frequencies_ptr + pair, mask=pair < pairs, other=0.0)
    top = tl.full((ROWS,), -1e30, tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((CHUNKS, D // CHUNKS, ROWS), tl.float32)
    for start in tl.range(low, high, KEYS, num_stages=STAGES):
        # [KEYS]; planes [KEYS, 1]
        index = start + tl.arange(0, KEYS)
        seen = index < high
        place = index.to(tl.int64)
        there = seen[:, None]
        planes = key_ptr + (place * kt)[:, None]
        extras = extra_ptr + (place * et)[:, None]
        stored = chunked(rows_of(planes, extras, table_ptr, there, D, KP, KE), CHUNKS)
        # [CHUNKS, KEYS, ROWS]
        sums = tl.dot(stored, query)
        if PAIRS > 0:
            where = positions_ptr + batch * pb + (place + origin) * pt
            position = tl.load(where, mask=seen, other=0).to(tl.float32)
            cos, sin = waves(position[:, None] * frequency, ROUND)
            one, two = pairs_at(planes, extras, table_ptr, there, pair, D, KP, KE)
            features = turned(cos, sin, one, two, KEYS, PAIRS, CHUNKS)
            sums = tl.dot(features, turn, sums)
        # [KEYS, ROWS]
        scores = tl.sum(sums, 0)
        scale = tl.full((KEYS,), 1.0, tl.float32)
        if KP != 16:
            scale = tl.load(scale_ptr + place * st, mask=seen, other=0.0).to(tl.float32)
        scores *= size[None, :] * scale[:, None]
        if BIAS:
            pushed = tl.dot(chunked(tl.interleave(cos, sin).to(tl.float16), CHUNKS // 2), bias)
            scores += tl.sum(pushed, 0) * push[None, :]
        if SPLIT:
            scale = tl.full((KEYS,), 1.0, tl.float32)
            if VP != 16:
                scale = tl.load(size_ptr + place * zt, mask=seen, other=0.0).to(tl.float32)
            stored = rows_of(
                value_ptr + (place * vt)[:, None], more_ptr + (place * wt)[:, None], values_ptr,
                there, D, VP, VE,
            )  # fmt: skip
            stored = chunked(stored, CHUNKS)
        if MASK:
            masked = mask_ptr + batch * mb + (place + origin) * mt
            seen = seen & (tl.load(masked, mask=seen, other=0) != 0)
        scores = tl.where(seen[:, None], scores, float("-inf"))
        top, mass, total = advance(top, mass, total, scores, scale, stored)
    return top, mass, total
