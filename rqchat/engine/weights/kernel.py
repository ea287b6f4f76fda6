"""Products with packed matrices on a GPU. The formula and the layout are those of `grid.py`.

A code q becomes a float32 without conversion: its bits, at the top of the mantissa of 2**bits, read
2**bits + q. Sums are float32 and in a fixed order: the same inputs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rqchat.engine.weights.grid import Packed
from rqchat.engine.weights.launch import dequantize_launch, dot_launch, gemv_launch

__all__ = [
    "dequantize",
    "dequantize_kernel",
    "dot",
    "dot_kernel",
    "gemv",
    "gemv_kernel",
    "grid_constants",
    "group_words",
    "multiply_rows",
    "multiply_tile",
    "narrow",
    "tensors_of",
]

_INTERPRETED_PROCESSORS = 4


@triton.jit
def _raised(words, FIELD: tl.constexpr, BITS: tl.constexpr):
    """2**BITS + code, float32, of field FIELD of int32 words."""
    UNIT: tl.constexpr = 23 - BITS
    SHIFT: tl.constexpr = FIELD * BITS - UNIT
    moved = words >> SHIFT if SHIFT >= 0 else words << -SHIFT
    MASK: tl.constexpr = ((1 << BITS) - 1) << UNIT
    return ((moved & MASK) | ((127 + BITS) << 23)).to(tl.float32, bitcast=True)


@triton.jit
def _line(
    scale_ptr, offset_ptr, at, seen, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr
):  # fmt: skip
    """Scale and shift, float32, that turn a raised code into its value."""
    scale = tl.load(scale_ptr + at, mask=seen, other=0.0).to(tl.float32)
    if HAS_OFFSET:
        shift = tl.load(offset_ptr + at, mask=seen, other=0.0).to(tl.float32) - scale * (1 << BITS)
    else:
        shift = scale * (-(1 << BITS) - (1 << (BITS - 1)))
    return scale, shift


@triton.jit
def multiply_rows(
    source, row, rows, words_ptr, scale_ptr, offset_ptr, output, outputs,
    words_per_row, words_per_group,
    ROWS: tl.constexpr, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """[ROWS, BLOCK_N] float32: rows at `source` [ROWS, 1, 1] times outputs [BLOCK_N, 1]."""
    FIELDS: tl.constexpr = 32 // BITS
    step = tl.arange(0, BLOCK_W)[None, :]
    total = tl.zeros((ROWS, BLOCK_N, BLOCK_W), tl.float32)
    for begin in range(0, words_per_row, BLOCK_W):
        word = begin + step
        seen = (output < outputs) & (word < words_per_row)
        words = tl.load(words_ptr + output * words_per_row + word, mask=seen, other=0)
        at = output * (words_per_row // words_per_group) + word // words_per_group
        scale, shift = _line(scale_ptr, offset_ptr, at, seen, BITS, HAS_OFFSET)
        wanted = (row < rows) & (word < words_per_row)[None, :, :]
        product = tl.zeros((ROWS, BLOCK_N, BLOCK_W), tl.float32)
        plain = tl.zeros((ROWS, 1, BLOCK_W), tl.float32)
        for field in tl.static_range(FIELDS):
            x = tl.load(source + word[None, :, :] * FIELDS + field, mask=wanted, other=0.0)
            x = x.to(tl.float32)
            product += _raised(words, field, BITS)[None, :, :] * x
            plain += x
        total += scale[None, :, :] * product + shift[None, :, :] * plain
    return tl.sum(total, axis=2)


@triton.jit
def gemv_kernel(
    x_ptr, words_ptr, scale_ptr, offset_ptr, out_ptr,
    rows, outputs, words_per_row, words_per_group,
    ROWS: tl.constexpr, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """out [rows, outputs] = x [rows, columns] times the matrix, for a few rows."""
    row = tl.arange(0, ROWS)[:, None, None]
    output = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    source = x_ptr + row.to(tl.int64) * words_per_row * (32 // BITS)
    value = multiply_rows(
        source, row, rows, words_ptr, scale_ptr, offset_ptr, output, outputs,
        words_per_row, words_per_group, ROWS, BITS, HAS_OFFSET, BLOCK_N, BLOCK_W,
    )  # fmt: skip
    # [ROWS, BLOCK_N]
    row, output = tl.arange(0, ROWS)[:, None], tl.program_id(0).to(tl.int64) * BLOCK_N
    output += tl.arange(0, BLOCK_N)[None, :]
    target = out_ptr + row.to(tl.int64) * outputs + output
    tl.store(target, value.to(out_ptr.dtype.element_ty), mask=(row < rows) & (output < outputs))


@triton.jit
def multiply_tile(
    source, asked, words_ptr, scale_ptr, offset_ptr, output, outputs, first, last,
    words_per_row, words_per_group,
    ROWS: tl.constexpr, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N, ROWS] float32: outputs [BLOCK_N, 1] of rows at `source` [1, ROWS], where `asked`.

    Words from `first` to `last` count, values are rounded to DOT. A product needs no order of
    columns: field by field, BLOCK_W columns apart by FIELDS meet.
    """
    FIELDS: tl.constexpr = 32 // BITS
    total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for begin in range(first, last, BLOCK_W):
        word = begin + tl.arange(0, BLOCK_W)[None, :]
        seen = (output < outputs) & (word < last)
        words = tl.load(words_ptr + output * words_per_row + word, mask=seen, other=0)
        at = output * (words_per_row // words_per_group) + word // words_per_group
        scale, shift = _line(scale_ptr, offset_ptr, at, seen, BITS, HAS_OFFSET)
        # [BLOCK_W, 1]
        place = begin + tl.arange(0, BLOCK_W)[:, None]
        wanted = (place < last) & asked
        for field in tl.static_range(FIELDS):
            value = (_raised(words, field, BITS) * scale + shift).to(DOT)
            x = tl.load(source + place * FIELDS + field, mask=wanted, other=0.0).to(DOT)
            total = tl.dot(value, x, total, input_precision="ieee")
    return total


@triton.jit
def dot_kernel(
    x_ptr, words_ptr, scale_ptr, offset_ptr, parts_ptr,
    rows, outputs, words_per_row, words_per_group, words_per_part,
    ROWS: tl.constexpr, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """parts [splits, rows, outputs] float32 sum up to the product; values are rounded to DOT."""
    # [BLOCK_N, 1] and [1, ROWS]
    output = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    row = tl.arange(0, ROWS)[None, :].to(tl.int64)
    first = tl.program_id(1) * words_per_part
    total = multiply_tile(
        x_ptr + row * (words_per_row * (32 // BITS)), row < rows,
        words_ptr, scale_ptr, offset_ptr, output, outputs,
        first, tl.minimum(first + words_per_part, words_per_row), words_per_row, words_per_group,
        ROWS, BITS, HAS_OFFSET, BLOCK_N, BLOCK_W, DOT,
    )  # fmt: skip
    target = parts_ptr + (tl.program_id(1) * rows + row) * outputs + output
    tl.store(target, total, mask=(row < rows) & (output < outputs))


@triton.jit
def dequantize_kernel(
    words_ptr, scale_ptr, offset_ptr, out_ptr,
    outputs, words_per_row, words_per_group,
    BITS: tl.constexpr, HAS_OFFSET: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out [outputs, columns], rounded to its own type."""
    FIELDS: tl.constexpr = 32 // BITS
    # [BLOCK_N, BLOCK_K]
    output = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    column = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    seen = (output < outputs) & (column < words_per_row * FIELDS)
    word = column // FIELDS
    words = tl.load(words_ptr + output * words_per_row + word, mask=seen, other=0)
    at = output * (words_per_row // words_per_group) + word // words_per_group
    scale, shift = _line(scale_ptr, offset_ptr, at, seen, BITS, HAS_OFFSET)
    code = (words >> (column % FIELDS) * BITS) & ((1 << BITS) - 1)
    value = (code + (1 << BITS)).to(tl.float32) * scale + shift
    target = out_ptr + output * (words_per_row * FIELDS) + column
    tl.store(target, value.to(out_ptr.dtype.element_ty), mask=seen)


def gemv(x: torch.Tensor, weight: Packed) -> torch.Tensor:
    """x [rows <= 16, columns] times the matrix: [rows, outputs] in x's dtype."""
    launch, (outputs, words) = gemv_launch(weight.grid.bits), weight.words.shape
    out = torch.empty(x.shape[0], outputs, dtype=x.dtype, device=x.device)
    gemv_kernel[(triton.cdiv(outputs, launch.block_rows),)](
        x.contiguous(), *tensors_of(weight), out, x.shape[0], outputs, words, group_words(weight),
        ROWS=triton.next_power_of_2(x.shape[0]), **grid_constants(weight),
        BLOCK_N=launch.block_rows, BLOCK_W=launch.block_words,
        num_warps=launch.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def dot(x: torch.Tensor, weight: Packed) -> torch.Tensor:
    """x [rows <= 64, columns] times the matrix: [rows, outputs] in x's dtype."""
    rows, (outputs, words) = x.shape[0], weight.words.shape
    launch = dot_launch(rows, outputs, words, _processors(x))
    part = triton.cdiv(triton.cdiv(words, launch.splits), launch.block_words) * launch.block_words
    shape = (triton.cdiv(words, part), rows, outputs)
    parts = torch.empty(*shape, dtype=torch.float32, device=x.device)
    dot_kernel[(triton.cdiv(outputs, launch.block_rows), parts.shape[0])](
        x.contiguous(), *tensors_of(weight), parts, rows, outputs, words, group_words(weight), part,
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
        *tensors_of(weight), out, outputs, words, group_words(weight), **grid_constants(weight),
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


def tensors_of(weight: Packed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Words, scales, and offsets, or what stands in their place."""
    return weight.words, weight.scale, weight.scale if weight.offset is None else weight.offset


def group_words(weight: Packed) -> int:
    """Words that share a scale."""
    return int(weight.words.shape[1] // weight.scale.shape[1])


def grid_constants(weight: Packed) -> dict[str, object]:
    """What a kernel is compiled for."""
    return {"BITS": weight.grid.bits, "HAS_OFFSET": weight.grid.has_offset}
