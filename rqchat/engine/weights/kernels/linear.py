"""Products with packed matrices on a GPU. The formula and the layout are those of `grid.py`.

A code q becomes a float32 without conversion: its bits, at the top of the mantissa of 2**bits, read
2**bits + q. Sums are float32 and in a fixed order: the same inputs give the same bits. What a code
costs, counted in machine code: docs/benchmarks/kernels-cpu.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from rqchat.engine.weights.grid import Packed
from rqchat.engine.weights.kernels.launch import dequantize_launch, dot_launch, gemv_launch

__all__ = [
    "dequantize",
    "dequantize_kernel",
    "dot",
    "dot_kernel",
    "fields_of",
    "gated_gemv_kernel",
    "gemv",
    "gemv_gated",
    "gemv_joined",
    "gemv_kernel",
    "grid_constants",
    "multiply_row",
    "multiply_tile",
    "narrow",
    "share_of",
    "tensors_of",
]

_INTERPRETED_PROCESSORS = 4


@triton.constexpr_function
def fields_of(bits):
    """Codes that a word holds; of three bits two, whose third lies in a plane of its own."""
    return 32 // (bits // 2 * 2)


@triton.constexpr_function
def _field_of(part, fields, ordered):
    """Which field meets the part-th values: `_fields` leaves halves of halves in reversed bits."""
    if ordered:
        return part
    field = 0
    while fields > 1:
        field, part, fields = field * 2 + part % 2, part // 2, fields // 2
    return field


@triton.jit
def _fields(x, ROWS: tl.constexpr, W: tl.constexpr, FIELDS: tl.constexpr):
    """What meets each field of W words, FIELDS times [ROWS, W], of x [ROWS, W FIELDS]."""
    if FIELDS == 1:
        return (tl.reshape(x, (ROWS, W)),)
    else:
        even, odd = tl.split(tl.reshape(x, (ROWS, W, FIELDS // 2, 2)))
        return _fields(even, ROWS, W, FIELDS // 2) + _fields(odd, ROWS, W, FIELDS // 2)


@triton.jit
def _apart(source, word, words_per_row, PART: tl.constexpr, FIELDS: tl.constexpr):
    """What meets each field from PART on, [1, W] each, of a row in field order (`norm.Norm`)."""
    x = tl.load(source + PART * words_per_row + word, mask=word < words_per_row, other=0.0)
    if PART + 1 == FIELDS:
        return (x,)
    else:
        return (x,) + _apart(source, word, words_per_row, PART + 1, FIELDS)


@triton.jit
def _exponent(BITS: tl.constexpr):
    """The bits of 2**BITS, in a register: a constant would cost each code an operation more."""
    # Grids have two dimensions, so this is 0, which the compiler cannot know.
    return tl.program_id(2) + ((127 + BITS) << 23)


@triton.jit
def _raised(words, high, exponent, FIELD: tl.constexpr, BITS: tl.constexpr):
    """2**BITS + code, float32, of field FIELD of int32 words; `exponent` from `_exponent`."""
    LOW: tl.constexpr = BITS // 2 * 2
    UNIT: tl.constexpr = 23 - BITS
    SHIFT: tl.constexpr = FIELD * LOW - UNIT
    moved = words >> SHIFT if SHIFT >= 0 else words << -SHIFT
    MASK: tl.constexpr = ((1 << LOW) - 1) << UNIT
    raised = (moved & MASK) | exponent
    if BITS > LOW:
        raised |= (high << (UNIT + LOW - FIELD)) & (1 << (UNIT + LOW))
    return raised.to(tl.float32, bitcast=True)


@triton.jit
def _high_bits(high_ptr, at, seen, words, BITS: tl.constexpr):
    """int32, in its lowest 16 bits the third bits of a word's codes; `words` where none has one."""
    if BITS == 3:
        return tl.load(high_ptr + at, mask=seen, other=0).to(tl.int32)
    else:
        return words


@triton.jit
def _line(scale_ptr, offset_ptr, at, seen, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr):
    """Scale and shift, float32, that turn a raised code into its value."""
    scale = tl.load(scale_ptr + at, mask=seen, other=0.0).to(tl.float32)
    if HAS_OFFSET:
        shift = tl.load(offset_ptr + at, mask=seen, other=0.0).to(tl.float32) - scale * (1 << BITS)
    else:
        shift = scale * (-(1 << BITS) - (1 << (BITS - 1)))
    return scale, shift


@triton.jit
def multiply_row(
    source, words_ptr, high_ptr, scale_ptr, offset_ptr, output, outputs, words_per_row,
    BITS: tl.constexpr, HAS_OFFSET: tl.constexpr, GROUP: tl.constexpr, SHARE: tl.constexpr,
    ORDERED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N] float32: the row at `source` times outputs [BLOCK_N, 1].

    A thread keeps its columns of the row in registers for all BLOCK_N outputs. GROUP words have a
    scale; SHARE of them, a divisor of GROUP and 4, are added up before it. A row that is ORDERED,
    by fields, comes into these registers without a way through shared memory and its barriers.
    """
    FIELDS: tl.constexpr = fields_of(BITS)
    # What all codes are too high: raised, and symmetric around half of their range
    HIGH: tl.constexpr = (1 << BITS) if HAS_OFFSET else 3 << (BITS - 1)
    SHARES: tl.constexpr = BLOCK_W // SHARE
    exponent = _exponent(BITS)
    total = tl.zeros((BLOCK_N, SHARES), tl.float32)
    for begin in range(0, words_per_row, BLOCK_W):
        word = begin + tl.arange(0, BLOCK_W)[None, :]
        if ORDERED:
            x = _apart(source, word, words_per_row, 0, FIELDS)
        else:
            column = begin * FIELDS + tl.arange(0, BLOCK_W * FIELDS)[None, :]
            x = tl.load(source + column, mask=column < words_per_row * FIELDS, other=0.0)
            x = _fields(x, 1, BLOCK_W, FIELDS)
        seen = (output < outputs) & (word < words_per_row)
        words = tl.load(words_ptr + output * words_per_row + word, mask=seen, other=0)
        high = _high_bits(high_ptr, output * words_per_row + word, seen, words, BITS)
        plain = tl.zeros((1, BLOCK_W), tl.float32)
        for part in tl.static_range(FIELDS):
            plain += x[part].to(tl.float32)
        product = tl.zeros((BLOCK_N, BLOCK_W), tl.float32) - HIGH * plain
        for part in tl.static_range(FIELDS):
            raised = _raised(words, high, exponent, _field_of(part, FIELDS, ORDERED), BITS)
            product += raised * x[part].to(tl.float32)
        # [1, SHARES]
        share = begin + tl.arange(0, SHARES)[None, :] * SHARE
        seen = (output < outputs) & (share < words_per_row)
        at = output * (words_per_row // GROUP) + share // GROUP
        scale = tl.load(scale_ptr + at, mask=seen, other=0.0).to(tl.float32)
        total += scale * tl.sum(tl.reshape(product, (BLOCK_N, SHARES, SHARE)), 2)
        if HAS_OFFSET:
            offset = tl.load(offset_ptr + at, mask=seen, other=0.0).to(tl.float32)
            total += offset * tl.sum(tl.reshape(plain, (1, SHARES, SHARE)), 2)
    return tl.sum(total, axis=1)


@triton.jit
def _chosen(block, one, other, BLOCK_N: tl.constexpr):
    """Whether `block` lies behind the matrix `one`, its place there or in `other`, and which."""
    blocks = tl.cdiv(one[4], BLOCK_N)
    behind = block >= blocks
    return (
        tl.where(behind, block - blocks, block),
        tl.where(behind, one[4], 0),
        tl.where(behind, other[0], one[0]), tl.where(behind, other[1], one[1]),
        tl.where(behind, other[2], one[2]), tl.where(behind, other[3], one[3]),
        tl.where(behind, other[4], one[4]),
    )  # fmt: skip


@triton.jit
def gemv_kernel(
    x_ptr, first, second, third, out_ptr, all_outputs, words_per_row,
    BITS: tl.constexpr, HAS_OFFSET: tl.constexpr, GROUP: tl.constexpr, SHARE: tl.constexpr,
    ORDERED: tl.constexpr, MATRICES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """out [rows, all outputs] = x [rows, columns] times one to three matrices, side by side.

    A matrix is its words, third bits, scales, offsets and outputs. Grid (rows, output blocks of the
    first, the second, the third). Programs that take the same outputs of other rows run at the same
    time and meet in the L2 cache.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    words_ptr, high_ptr, scale_ptr, offset_ptr, outputs = first
    start = 0
    if MATRICES > 1:
        block, start, words_ptr, high_ptr, scale_ptr, offset_ptr, outputs = _chosen(
            block, first, second, BLOCK_N
        )
    if MATRICES > 2:
        both = (words_ptr, high_ptr, scale_ptr, offset_ptr, outputs)
        block, more, words_ptr, high_ptr, scale_ptr, offset_ptr, outputs = _chosen(
            block, both, third, BLOCK_N
        )
        start += more
    output = block.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    value = multiply_row(
        x_ptr + row * words_per_row * fields_of(BITS), words_ptr, high_ptr, scale_ptr, offset_ptr,
        output[:, None], outputs, words_per_row,
        BITS, HAS_OFFSET, GROUP, SHARE, ORDERED, BLOCK_N, BLOCK_W,
    )  # fmt: skip
    target = out_ptr + row * all_outputs + start + output
    tl.store(target, value.to(out_ptr.dtype.element_ty), mask=output < outputs)


@triton.jit
def _gelu(x):
    """gelu of float32 values in its tanh form (Hendrycks and Gimpel 2016), x / (1 + exp(-2 u))."""
    # -2 sqrt(2 / pi) = -1.5957691216057308; behind 80 the quotient is nothing and exp overflows.
    falls = tl.minimum(-1.5957691216057308 * (x + 0.044715 * x * x * x), 80.0)
    return x / (1.0 + tl.exp(falls))


@triton.jit
def gated_gemv_kernel(
    x_ptr, gate, up, out_ptr, outputs, words_per_row,
    BITS: tl.constexpr, HAS_OFFSET: tl.constexpr, GROUP: tl.constexpr, SHARE: tl.constexpr,
    ORDERED: tl.constexpr, FIELDS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """out [rows, outputs] = gelu(x gate) * (x up), rounded as apart, in the order of FIELDS."""
    row = tl.program_id(0).to(tl.int64)
    output = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    source = x_ptr + row * words_per_row * fields_of(BITS)
    kind = out_ptr.dtype.element_ty
    opened = multiply_row(
        source, gate[0], gate[1], gate[2], gate[3], output[:, None], outputs, words_per_row,
        BITS, HAS_OFFSET, GROUP, SHARE, ORDERED, BLOCK_N, BLOCK_W,
    )  # fmt: skip
    value = multiply_row(
        source, up[0], up[1], up[2], up[3], output[:, None], outputs, words_per_row,
        BITS, HAS_OFFSET, GROUP, SHARE, ORDERED, BLOCK_N, BLOCK_W,
    )  # fmt: skip
    opened = _gelu(opened.to(kind).to(tl.float32)).to(kind).to(tl.float32)
    value = opened * value.to(kind).to(tl.float32)
    place = output % FIELDS * (outputs // FIELDS) + output // FIELDS
    tl.store(out_ptr + row * outputs + place, value.to(kind), mask=output < outputs)


@triton.jit
def multiply_tile(
    source, asked, words_ptr, high_ptr, scale_ptr, offset_ptr,
    output, outputs, first, last, words_per_row,
    ROWS: tl.constexpr, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N, ROWS] float32: outputs [BLOCK_N, 1] of rows at `source` [ROWS, 1], where `asked`.

    Words from `first` to `last` count, values are rounded to DOT. A product needs no order of
    columns: field by field, BLOCK_W columns apart by FIELDS meet.
    """
    FIELDS: tl.constexpr = fields_of(BITS)
    exponent = _exponent(BITS)
    total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for begin in range(first, last, BLOCK_W):
        word = begin + tl.arange(0, BLOCK_W)[None, :]
        seen = (output < outputs) & (word < last)
        words = tl.load(words_ptr + output * words_per_row + word, mask=seen, other=0)
        high = _high_bits(high_ptr, output * words_per_row + word, seen, words, BITS)
        at = output * (words_per_row // GROUP) + word // GROUP
        scale, shift = _line(scale_ptr, offset_ptr, at, seen, BITS, HAS_OFFSET)
        column = begin * FIELDS + tl.arange(0, BLOCK_W * FIELDS)[None, :]
        wanted = asked & (column < last * FIELDS)
        x = _fields(tl.load(source + column, mask=wanted, other=0.0), ROWS, BLOCK_W, FIELDS)
        for part in tl.static_range(FIELDS):
            raised = _raised(words, high, exponent, _field_of(part, FIELDS, False), BITS)
            value = (raised * scale + shift).to(DOT)
            total = tl.dot(value, tl.trans(x[part]).to(DOT), total, input_precision="ieee")
    return total


@triton.jit
def dot_kernel(
    x_ptr, words_ptr, high_ptr, scale_ptr, offset_ptr, parts_ptr,
    rows, outputs, words_per_row, words_per_part,
    ROWS: tl.constexpr, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """parts [splits, rows, outputs] float32 sum up to the product; values are rounded to DOT."""
    # [BLOCK_N, 1] and [ROWS, 1]
    output = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    row = tl.arange(0, ROWS)[:, None].to(tl.int64)
    first = tl.program_id(1) * words_per_part
    total = multiply_tile(
        x_ptr + row * (words_per_row * fields_of(BITS)), row < rows,
        words_ptr, high_ptr, scale_ptr, offset_ptr, output, outputs,
        first, tl.minimum(first + words_per_part, words_per_row), words_per_row,
        ROWS, BITS, HAS_OFFSET, GROUP, BLOCK_N, BLOCK_W, DOT,
    )  # fmt: skip
    row = tl.trans(row)
    target = parts_ptr + (tl.program_id(1) * rows + row) * outputs + output
    tl.store(target, total, mask=(row < rows) & (output < outputs))


@triton.jit
def dequantize_kernel(
    words_ptr, high_ptr, scale_ptr, offset_ptr, out_ptr,
    outputs, words_per_row,
    BITS: tl.constexpr, HAS_OFFSET: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out [outputs, columns], rounded to its own type."""
    FIELDS: tl.constexpr = fields_of(BITS)
    # [BLOCK_N, BLOCK_K]
    output = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    column = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    seen = (output < outputs) & (column < words_per_row * FIELDS)
    word = column // FIELDS
    words = tl.load(words_ptr + output * words_per_row + word, mask=seen, other=0)
    high = _high_bits(high_ptr, output * words_per_row + word, seen, words, BITS)
    at = output * (words_per_row // GROUP) + word // GROUP
    scale, shift = _line(scale_ptr, offset_ptr, at, seen, BITS, HAS_OFFSET)
    LOW: tl.constexpr = BITS // 2 * 2
    code = (words >> (column % FIELDS) * LOW) & ((1 << LOW) - 1)
    if BITS > LOW:
        code |= ((high >> (column % FIELDS)) & 1) << LOW
    value = (code + (1 << BITS)).to(tl.float32) * scale + shift
    target = out_ptr + output * (words_per_row * FIELDS) + column
    tl.store(target, value.to(out_ptr.dtype.element_ty), mask=seen)


def gemv(x: torch.Tensor, weight: Packed) -> torch.Tensor:
    """x [a few rows, columns] times the matrix: [rows, outputs] in x's dtype."""
    (out,) = gemv_joined(x, [weight], ordered=False)
    return out


def gemv_joined(
    x: torch.Tensor, weights: Sequence[Packed], *, ordered: bool
) -> tuple[torch.Tensor, ...]:
    """x [a few rows, columns] times each of up to three matrices of one grid, in one launch.

    Args:
        x: in field order (`ops.norm.Norm`) where it is `ordered`.
        weights: matrices of the same columns.
        ordered: whether x is.
    """
    words, rows = weights[0].words.shape[1], x.shape[0]
    launch = gemv_launch(words, weights[0].grid.bits)
    sizes = [weight.words.shape[0] for weight in weights]
    out = torch.empty(rows, sum(sizes), dtype=x.dtype, device=x.device)
    given = [(*tensors_of(weight), weight.words.shape[0]) for weight in weights]
    gemv_kernel[(rows, sum(triton.cdiv(size, launch.block_rows) for size in sizes))](
        x.contiguous(), *given, *given[:1] * (3 - len(given)), out, sum(sizes), words,
        **grid_constants(weights[0]), SHARE=share_of(weights[0]),
        ORDERED=ordered, MATRICES=len(given),
        BLOCK_N=launch.block_rows, BLOCK_W=launch.block_words,
        num_warps=launch.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return out.split(sizes, dim=1)


def gemv_gated(x: torch.Tensor, gate: Packed, up: Packed, fields: int) -> torch.Tensor:
    """gelu(x gate) * (x up) [a few rows, outputs], x and the result in field order.

    `fields` is that of what multiplies the result.
    """
    (outputs, words), rows = gate.words.shape, x.shape[0]
    launch = gemv_launch(words, gate.grid.bits)
    out = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    gated_gemv_kernel[(rows, triton.cdiv(outputs, launch.block_rows))](
        x.contiguous(), tensors_of(gate), tensors_of(up), out, outputs, words,
        **grid_constants(gate), SHARE=share_of(gate), ORDERED=True, FIELDS=fields,
        BLOCK_N=launch.block_rows, BLOCK_W=launch.block_words,
        num_warps=launch.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def dot(x: torch.Tensor, weight: Packed) -> torch.Tensor:
    """x [rows <= 64, columns] times the matrix: [rows, outputs] in x's dtype."""
    rows, (outputs, words) = x.shape[0], weight.words.shape
    launch = dot_launch(rows, outputs, words, weight.grid.bits, _processors(x))
    part = triton.cdiv(triton.cdiv(words, launch.splits), launch.block_words) * launch.block_words
    shape = (triton.cdiv(words, part), rows, outputs)
    parts = torch.empty(*shape, dtype=torch.float32, device=x.device)
    dot_kernel[(triton.cdiv(outputs, launch.block_rows), parts.shape[0])](
        x.contiguous(), *tensors_of(weight), parts, rows, outputs, words, part,
        ROWS=max(16, triton.next_power_of_2(rows)), **grid_constants(weight),
        BLOCK_N=launch.block_rows, BLOCK_W=launch.block_words, DOT=narrow(x.dtype),
        num_warps=launch.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return parts.sum(0).to(x.dtype)


def dequantize(weight: Packed, dtype: torch.dtype) -> torch.Tensor:
    """The matrix [outputs, columns] in `dtype`."""
    launch, (outputs, words) = dequantize_launch(), weight.words.shape
    out = torch.empty(outputs, weight.columns, dtype=dtype, device=weight.words.device)
    parts = triton.cdiv(weight.columns, launch.block_words)
    dequantize_kernel[(triton.cdiv(outputs, launch.block_rows), parts)](
        *tensors_of(weight), out, outputs, words, **grid_constants(weight),
        BLOCK_N=launch.block_rows, BLOCK_K=launch.block_words,
        num_warps=launch.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def narrow(dtype: torch.dtype) -> tl.dtype:
    """What `tl.dot` multiplies; the interpreter multiplies the bit patterns of bfloat16."""
    return tl.float32 if triton.knobs.runtime.interpret else _DTYPES[dtype]


_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def _processors(x: torch.Tensor) -> int:
    if not x.is_cuda:
        return _INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(x.device).multi_processor_count)


def tensors_of(weight: Packed) -> tuple[torch.Tensor, ...]:
    """Words, third bits, scales, and offsets, or what stands in their place."""
    high = weight.words if weight.high is None else weight.high
    offset = weight.scale if weight.offset is None else weight.offset
    return weight.words, high, weight.scale, offset


def grid_constants(weight: Packed) -> dict[str, object]:
    """What a kernel is compiled for."""
    grid = weight.grid
    return {"BITS": grid.bits, "HAS_OFFSET": grid.has_offset, "GROUP": _group_words(weight)}


def share_of(weight: Packed) -> int:
    """Words whose products are added up before the scale: a thread loads 4, if they share one."""
    return math.gcd(4, _group_words(weight))


def _group_words(weight: Packed) -> int:
    return int(weight.words.shape[1] // weight.scale.shape[1])
