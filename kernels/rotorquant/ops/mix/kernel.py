"""Mix, choose codes and pack on a GPU, in one launch; the formulas are those of `reference.py`.

Products with signs are exact in bfloat16, so a float32 value goes to the tensor cores as three
bfloat16 parts, which hold all of its bits, and a bfloat16 one as it is.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.code_table import Codebook
from rotorquant.ops.launches import RowsLaunch, launch_rows
from rotorquant.ops.mix.reference import Mix
from rotorquant.ops.planes import planes_of
from rotorquant.ops.quantize.kernel import joined, nearest, pack, put_row, standardized
from rotorquant.ops.quantize.reference import Packed, PackedOut

__all__ = ["constants", "mix_kernel", "mix_packed"]


@triton.jit
def _first_bits(x):
    """The first eight bits of float32 values, as bfloat16, and what is left: both are exact."""
    bits = x.to(tl.int32, bitcast=True)
    first = (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return first, x - (bits & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _signed(rows, signs, PARTS: tl.constexpr, WIDE: tl.constexpr):
    """Float32 products of rows [M, K] float32, bfloat16 in PARTS parts, and signs [K, N]."""
    if WIDE:
        return tl.dot(rows, signs, input_precision="ieee")
    else:
        signs = signs.to(tl.bfloat16)
        first, rest = _first_bits(rows)
        if PARTS == 1:
            return tl.dot(first, signs)
        else:
            second, rest = _first_bits(rest)
            third, rest = _first_bits(rest)
            return tl.dot(first, signs, tl.dot(second, signs, tl.dot(third, signs)))


@triton.jit
def _upright(lying, BLOCK: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Grids [A, B] of bytes that lie on their side, as int32 rows [BLOCK, A B]."""
    grid = tl.permute(tl.reshape(lying.to(tl.uint8), (BLOCK, B, A)), (0, 2, 1))
    return tl.reshape(grid, (BLOCK, A * B)).to(tl.int32)


@triton.jit(do_not_specialize=["tokens"])
def mix_kernel(
    vectors_ptr, signs_ptr, right_ptr, mixed_ptr, left_ptr, gain_ptr, book, planes,
    heads, tokens, batch_stride, head_stride, token_stride,
    A: tl.constexpr, B: tl.constexpr, P: tl.constexpr, E: tl.constexpr, ROOT: tl.constexpr,
    CELLS: tl.constexpr, MATCHED: tl.constexpr, PARTS: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Planes and scales of vectors [B, H, N, A B], all at any strides of B, H and N.

    Grid (token tiles, B H).
    """
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    # [BLOCK, 1]
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    seen = token < tokens
    row_ptrs = vectors_ptr + batch * batch_stride + head * head_stride + token * token_stride
    # [BLOCK, A B], then a grid for every vector
    dims = tl.arange(0, A * B)[None, :]
    x = tl.load(row_ptrs + dims, mask=seen, other=0.0).to(tl.float32) * tl.load(signs_ptr + dims)
    lines = tl.reshape(x, (BLOCK * A, B))
    one, two = tl.arange(0, B)[:, None], tl.arange(0, B)[None, :]
    y = _signed(lines, tl.load(right_ptr + two * B + one), PARTS, WIDE)
    y = tl.reshape(y, (BLOCK, A, B))
    mixed = tl.load(mixed_ptr + tl.arange(0, A))[None, :, None] > 0.0
    y = tl.where(mixed, y, tl.reshape(x, (BLOCK, A, B)))
    # The grids lie on their side from here on: [BLOCK, B, A]
    y = tl.reshape(tl.permute(y, (0, 2, 1)), (BLOCK * B, A))
    one, two = tl.arange(0, A)[:, None], tl.arange(0, A)[None, :]
    z = _signed(y, tl.load(left_ptr + two * A + one), 3, WIDE) * tl.load(gain_ptr + two)
    unit, norm = standardized(tl.reshape(z, (BLOCK, A * B)), ROOT)
    code = nearest(unit, book, CELLS)
    value = tl.load(book[0] + code)
    energy = tl.sum(value * value, 1)[:, None]
    F: tl.constexpr = 8 // P
    byte, group = joined(tl.reshape(code, (BLOCK * B, F, A // F)), P, E)
    put_row(
        _upright(byte, BLOCK, A // F, B), _upright(group, BLOCK, A // F, B),
        norm, energy, planes, batch, head, token, seen,
        A * B, P, E, ROOT, MATCHED, BLOCK,
    )  # fmt: skip


def constants(by: Mix, bits: int, launch: RowsLaunch) -> dict[str, object]:
    """What the kernel is compiled for, but what depends on the vectors and the book."""
    planes = planes_of(bits)
    return {
        "A": len(by.left),
        "B": len(by.right),
        "P": planes.primary,
        "E": planes.extra,
        "ROOT": len(by.signs) ** 0.5,
        "BLOCK": launch.block_rows,
    }


def mix_packed(
    vectors: torch.Tensor, book: Codebook, by: Mix, matched: bool, into: PackedOut | None
) -> Packed:
    """Codes and scales of vectors [B, H, N, D]; D is one of `launches.HEAD_DIMS`."""
    capability = dispatch.capability_of(vectors)
    launch = launch_rows("mix", vectors.shape[-1], book.bits, capability)
    return pack(
        mix_kernel, vectors, by, book, matched, into, launch,
        **constants(by, book.bits, launch),
        PARTS=1 if vectors.dtype == torch.bfloat16 else 3,
        # Off a card the interpreter runs, whose product of bfloat16 tiles is wrong.
        WIDE=capability == (0, 0),
        **dispatch.registers(launch.num_warps),
    )  # fmt: skip
