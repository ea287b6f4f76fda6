"""Map, choose codes and pack on a GPU, in one launch; the formulas are those of `reference.py`.

Products are float32 on tensor cores, three of tf32 for one ("tf32x3", as good as float32 sums are);
where there are none of tf32 they are plain float32. A program keeps its mapped vectors, and what
later blocks pass on, in registers; the matrices come from the cache, which all programs share.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.code_table import Codebook
from rotorquant.ops.encode.reference import BLOCK, Dense
from rotorquant.ops.launches import MapLaunch, launch_map
from rotorquant.ops.mix import Mix
from rotorquant.ops.mix.kernel import mix_packed
from rotorquant.ops.planes import planes_of
from rotorquant.ops.quantize.kernel import joined, nearest, pack, put_row, standardized
from rotorquant.ops.quantize.reference import Packed, PackedOut

__all__ = ["constants", "encode", "map_kernel"]


@triton.jit
def _mapped(
    row_ptrs, matrix_ptr, offset_ptr, seen,
    D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OFFSET: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """T (x - m) [ROWS, D] float32 of rows at pointers [ROWS, 1]."""
    z = tl.zeros((ROWS, D), tl.float32)
    line = matrix_ptr + (tl.arange(0, D) * D)[:, None]
    for start in tl.range(0, D, COLUMNS, num_stages=STAGES):
        # [1, COLUMNS]
        column = start + tl.arange(0, COLUMNS)[None, :]
        x = tl.load(row_ptrs + column, mask=seen, other=0.0).to(tl.float32)
        if OFFSET:
            x -= tl.load(offset_ptr + column)
        z = tl.dot(x, tl.trans(tl.load(line + column)), z, input_precision=PRECISION)
    return z


@triton.jit
def _shaped(
    unit, feedback_ptr, book,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, CELLS: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Codes [ROWS, D] int32 that make up for the errors of later blocks; their energy [ROWS]."""
    BLOCKS: tl.constexpr = D // BLOCK
    number = tl.arange(0, BLOCKS)[None, :, None]
    # What was a value becomes its code
    parts = tl.reshape(unit, (ROWS, BLOCKS, BLOCK))
    push = tl.zeros((ROWS, D), tl.float32)
    energy = tl.zeros((ROWS,), tl.float32)
    HALF: tl.constexpr = BLOCK // 2
    half = tl.arange(0, 2)[None, :, None]
    line = feedback_ptr + (tl.arange(0, D) * D)[:, None] + tl.arange(0, HALF)[None, :]
    for step in tl.range(0, BLOCKS, num_stages=STAGES):
        # From the last block on, in the order of `reference.shaped_codes`.
        block = BLOCKS - 1 - step
        here = number == block
        # [ROWS, BLOCK]
        # A tile in registers has no index: a sum over zeros picks the block.
        own = tl.sum(tl.where(here, parts, 0.0), 1)
        pushed = tl.sum(tl.where(here, tl.reshape(push, (ROWS, BLOCKS, BLOCK)), 0.0), 1)
        code = nearest(own + pushed, book, CELLS)
        value = tl.load(book[0] + code)
        energy += tl.sum(value * value, 1)
        parts = tl.where(here, code.to(tl.float32)[:, None, :], parts)
        # By halves, as a whole block of columns would not fit the registers
        errors = tl.reshape(own - value, (ROWS, 2, HALF))
        for i in tl.range(0, 2, num_stages=1):
            error = tl.sum(tl.where(half == i, errors, 0.0), 1)
            passed = tl.trans(tl.load(line + block * BLOCK + i * HALF))
            push = tl.dot(error, passed, push, input_precision=PRECISION)
    return tl.reshape(parts, (ROWS, D)).to(tl.int32), energy


@triton.jit(do_not_specialize=["tokens"])
def map_kernel(
    vectors_ptr, matrix_ptr, offset_ptr, feedback_ptr, apart, book, planes,
    heads, tokens, batch_stride, head_stride, token_stride,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr, ROOT: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, CELLS: tl.constexpr,
    OFFSET: tl.constexpr, SHAPED: tl.constexpr, MATCHED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Planes and scales of vectors [B, H, N, D], all at any strides of B, H and N.

    Grid (token tiles, B H). Matrices [D, D] and offset [D] of a head are contiguous; apart: 1 where
    every head has its own, else 0.
    """
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    # [ROWS, 1]
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    seen = token < tokens
    row_ptrs = vectors_ptr + batch * batch_stride + head * head_stride + token * token_stride
    own = head * apart
    z = _mapped(
        row_ptrs, matrix_ptr + own * (D * D), offset_ptr + own * D, seen,
        D, ROWS, COLUMNS, OFFSET, PRECISION, STAGES,
    )  # fmt: skip
    unit, norm = standardized(z, ROOT)
    if SHAPED:
        code, energy = _shaped(
            unit, feedback_ptr + own * (D * D), book,
            D, ROWS, BLOCK, CELLS, PRECISION, STAGES,
        )  # fmt: skip
    else:
        code = nearest(unit, book, CELLS)
        value = tl.load(book[0] + code)
        energy = tl.sum(value * value, 1)
    byte, group = joined(tl.reshape(code, (ROWS, 8 // P, D * P // 8)), P, E)
    put_row(
        byte, group, norm, energy[:, None], planes, batch, head, token, seen,
        D, P, E, ROOT, MATCHED, ROWS,
    )  # fmt: skip


def constants(head_dim: int, bits: int, launch: MapLaunch) -> dict[str, object]:
    """What the kernel is compiled for, but what depends on the map and the book."""
    planes = planes_of(bits)
    return {
        "D": head_dim,
        "P": planes.primary,
        "E": planes.extra,
        "ROOT": head_dim**0.5,
        "BLOCK": BLOCK,
        "ROWS": launch.block_rows,
        "COLUMNS": launch.block_columns,
        "STAGES": launch.num_stages,
    }


def encode(
    vectors: torch.Tensor, book: Codebook, by: Dense | Mix, matched: bool, into: PackedOut | None
) -> Packed:
    """Codes and scales of mapped vectors, in one launch; D is one of `launches.HEAD_DIMS`."""
    if isinstance(by, Mix):
        return mix_packed(vectors, book, by, matched, into)
    head_dim, shaped = vectors.shape[-1], by.feedback is not None
    launch = launch_map(head_dim, book.bits, shaped, dispatch.capability_of(vectors))
    fields = (by.matrix if field is None else field.contiguous() for field in by)
    return pack(
        map_kernel, vectors, (*fields, int(by.matrix.shape[0] > 1)), book, matched, into, launch,
        **constants(head_dim, book.bits, launch),
        OFFSET=by.offset is not None,
        SHAPED=shaped,
        PRECISION=dispatch.float32_products(vectors),
        **dispatch.registers(launch.num_warps),
    )  # fmt: skip
