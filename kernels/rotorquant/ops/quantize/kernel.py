"""Quantize on a GPU: rotate, scale, nearest centroid, pack, in one launch over all vectors.

A program reads its vectors twice, the second time from the cache: first for their length, then a
pair (d, d + D/2) at a time, which is both what a planar rotor turns and what shares a byte. The
formulas are those of `reference.py`, the bytes those of `ops/planes.py`.

Also what other kernels share: `nearest`, `standardized`, `joined` and `put_row` on the device, and
`pack`, which launches them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.code_table import Codebook
from rotorquant.ops.launches import MapLaunch, RowsLaunch, launch_rows
from rotorquant.ops.planes import planes_of
from rotorquant.ops.quantize.reference import Packed, PackedOut
from rotorquant.ops.strides import four_dims

__all__ = [
    "constants",
    "joined",
    "nearest",
    "pack",
    "put_row",
    "quantize",
    "quantize_kernel",
    "standardized",
]


@triton.jit
def nearest(unit, book, CELLS: tl.constexpr):
    """Codes int32 of the shape of `unit`; book: a `Codebook`."""
    _, cells_ptr, first, per_unit = book
    place = tl.minimum(tl.maximum(unit * per_unit + first, 0.0), CELLS - 1.0)
    cell = tl.load(cells_ptr + place.to(tl.int32))
    bound = (cell >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    # The lower half of a cell counts the bounds below it; the upper half is the next bound.
    return cell.to(tl.int32) + (unit > bound).to(tl.int32)


@triton.jit
def standardized(y, ROOT: tl.constexpr):
    """Vectors [ROWS, D] of unit variance, and their norms [ROWS, 1] before."""
    norm = tl.sqrt(tl.sum(y * y, 1))[:, None]
    return y * (1.0 / tl.maximum(norm / ROOT, 1.1754943508222875e-38)), norm


@triton.jit
def joined(code, P: tl.constexpr, E: tl.constexpr):
    """Primary bytes and groups [X, W] int32 of codes [X, F, W], F = 8 / P parts of the dimensions.

    Parts lie in the fields of a byte in the order 0, 1 of halves and 0, 2, 1, 3 of quarters.
    """
    part = tl.arange(0, 8 // P)
    field = part
    if P == 2:
        field = part % 2 * 2 + part // 2
    low = (code & ((1 << P) - 1)) << (P * field)[None, :, None]
    return tl.sum(low, 1), tl.sum((code >> P) << (E * field)[None, :, None], 1)


@triton.jit
def put_row(
    byte, group, norm, energy, planes, batch, head, token, seen,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr, ROOT: tl.constexpr,
    MATCHED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Store bytes and groups [ROWS, D P / 8] int32, and the scale of norms and energies [ROWS, 1].

    planes: see `targets`. batch, head: of all rows. token, seen: [ROWS, 1].
    """
    primary_ptr, extra_ptr, scale_ptr, pb, ph, pt, eb, eh, et, sb, sh, st = planes
    target = primary_ptr + batch * pb + head * ph + token * pt + tl.arange(0, D * P // 8)[None, :]
    tl.store(target, byte.to(tl.uint8), mask=seen)
    if E > 0:
        WIDTH: tl.constexpr = D * E // 8
        GROUPS: tl.constexpr = P // E
        shift = (8 // GROUPS) * tl.arange(0, GROUPS)
        group = tl.reshape(group, (ROWS, GROUPS, WIDTH)) << shift[None, :, None]
        target = extra_ptr + batch * eb + head * eh + token * et + tl.arange(0, WIDTH)[None, :]
        tl.store(target, tl.sum(group, 1).to(tl.uint8), mask=seen)
    scale = norm / tl.sqrt(energy) if MATCHED else norm / ROOT
    target = scale_ptr + batch * sb + head * sh + token * st
    tl.store(target, scale.to(tl.float16), mask=seen)


@triton.jit
def _pair(
    row_ptrs, dims, seen, over_sigma, rotors, book,
    D: tl.constexpr, CELLS: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Codes [BLOCK, W] of dimensions `dims` and `dims` + D/2; what they add to |c|^2."""
    one = tl.load(row_ptrs + dims, mask=seen, other=0.0).to(tl.float32)
    two = tl.load(row_ptrs + dims + D // 2, mask=seen, other=0.0).to(tl.float32)
    if TURN:
        cos, sin = tl.load(rotors[0] + dims), tl.load(rotors[1] + dims)
        one, two = cos * one - sin * two, sin * one + cos * two
    first = nearest(one * over_sigma, book, CELLS)
    second = nearest(two * over_sigma, book, CELLS)
    near, far = tl.load(book[0] + first), tl.load(book[0] + second)
    return first, second, near * near + far * far


@triton.jit(do_not_specialize=["tokens"])
def quantize_kernel(
    vectors_ptr, rotors, book, planes, heads, tokens, batch_stride, head_stride, token_stride,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr, W: tl.constexpr, PARTS: tl.constexpr,
    ROOT: tl.constexpr, CELLS: tl.constexpr, TURN: tl.constexpr, MATCHED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Planes and scales of vectors [B, H, N, D], all at any strides of B, H and N.

    Grid (token tiles, B H). P and E are the bits of the two parts of a code; a program takes
    the primary bytes in PARTS parts of W columns, as many as share one byte of the extra plane.
    ROOT is sqrt(D).
    """
    primary_ptr, extra_ptr, scale_ptr, pb, ph, pt, eb, eh, et, sb, sh, st = planes
    F: tl.constexpr = 8 // P
    LOW: tl.constexpr = (1 << P) - 1
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    # [BLOCK, 1]
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    seen = token < tokens
    row_ptrs = vectors_ptr + batch * batch_stride + head * head_stride + token * token_stride
    # [BLOCK, D]
    whole = tl.load(row_ptrs + tl.arange(0, D)[None, :], mask=seen, other=0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(whole * whole, 1))
    over_sigma = (1.0 / tl.maximum(norm / ROOT, 1.1754943508222875e-38))[:, None]
    # [BLOCK, W] from here on
    columns = tl.arange(0, W)[None, :]
    energy = tl.zeros((BLOCK, W), tl.float32)
    high = tl.zeros((BLOCK, W), tl.int32)
    place = primary_ptr + batch * pb + head * ph + token * pt
    for part in tl.static_range(PARTS):
        column = part * W + columns
        a, b, more = _pair(row_ptrs, column, seen, over_sigma, rotors, book, D, CELLS, TURN)
        energy += more
        if F == 1:
            byte = a
            # 8 bits have a byte for each member of the pair.
            tl.store(place + column + D // 2, b.to(tl.uint8), mask=seen)
        else:
            byte = (a & LOW) | ((b & LOW) << P)
            group = (a >> P) | ((b >> P) << E)
            if F == 4:
                c, d, more = _pair(
                    row_ptrs, column + D // 4, seen, over_sigma, rotors, book, D, CELLS, TURN
                )
                energy += more
                byte |= ((c & LOW) << (2 * P)) | ((d & LOW) << (3 * P))
                group |= ((c >> P) << (2 * E)) | ((d >> P) << (3 * E))
            high |= group << (part * F * E)
        tl.store(place + column, byte.to(tl.uint8), mask=seen)
    if E > 0:
        target = extra_ptr + batch * eb + head * eh + token * et
        tl.store(target + columns, high.to(tl.uint8), mask=seen)
    scale = norm / tl.sqrt(tl.sum(energy, 1)) if MATCHED else norm / ROOT
    target = scale_ptr + batch * sb + head * sh + token * st
    tl.store(target, scale[:, None].to(tl.float16), mask=seen)


def constants(head_dim: int, bits: int, launch: RowsLaunch) -> dict[str, object]:
    """What the kernel is compiled for: bits, and how its columns are cut into parts."""
    planes = planes_of(bits)
    width, parts = planes.column_parts(head_dim)
    return {
        "D": head_dim,
        "P": planes.primary,
        "E": planes.extra,
        "W": width,
        "PARTS": parts,
        "ROOT": head_dim**0.5,
        "BLOCK": launch.block_rows,
    }


def quantize(
    vectors: torch.Tensor,
    book: Codebook,
    rotors: tuple[torch.Tensor, torch.Tensor] | None,
    matched: bool,
    into: PackedOut | None,
) -> Packed:
    """Codes and scales of vectors [..., D] in one launch; D is one of `launches.HEAD_DIMS`."""
    head_dim = vectors.shape[-1]
    launch = launch_rows("quantize", head_dim, book.bits, dispatch.capability_of(vectors))
    return pack(
        quantize_kernel, vectors, (rotors or (vectors, vectors),), book, matched, into, launch,
        **constants(head_dim, book.bits, launch),
        TURN=rotors is not None,
    )  # fmt: skip


def pack(
    kernel: Any,
    vectors: torch.Tensor,
    operands: Iterable[Any],
    book: Codebook,
    matched: bool,
    into: PackedOut | None,
    launch: RowsLaunch | MapLaunch,
    **options: object,
) -> Packed:
    """Launch a kernel that takes vectors, its own operands, book, planes, sizes and strides.

    Args:
        kernel: of a grid (token tiles, B H).
        vectors: [..., D] at any strides.
        operands: what stands between vectors and book.
        book, matched, into: as for `rotorquant.ops.quantize.quantize`.
        launch: of the kernel.
        options: what it is compiled for and launched with beyond CELLS and MATCHED.
    """
    packed = packed_tensors(vectors, book.bits, into)
    vectors = four_dims(vectors)
    batch, heads, tokens, _ = vectors.shape
    if vectors.numel() > 0:
        kernel[(triton.cdiv(tokens, launch.block_rows), batch * heads)](
            vectors, *operands, tuple(book), targets(packed),
            heads, tokens, *vectors.stride()[:3],
            **options, CELLS=len(book.cells), MATCHED=matched,
            num_warps=launch.num_warps, enable_fp_fusion=True,
        )  # fmt: skip
    return packed


def packed_tensors(vectors: torch.Tensor, bits: int, into: PackedOut | None) -> Packed:
    """Tensors for the planes and the scale of vectors [..., D]: those given, or new ones."""
    if into is not None:
        assert into[2] is not None
        return into[0], into[1], into[2]
    (*shape, head_dim), device, planes = vectors.shape, vectors.device, planes_of(bits)
    sizes = planes.primary_bytes(head_dim), planes.extra_bytes(head_dim)
    primary, extra = (
        torch.empty(*shape, size, dtype=torch.uint8, device=device) if size else None
        for size in sizes
    )
    assert primary is not None
    return primary, extra, torch.empty(shape, dtype=torch.float16, device=device)


def targets(packed: Packed) -> tuple[torch.Tensor | int, ...]:
    """Pointers to the planes and the scale, then their strides of batch, head and token."""
    primary, extra, scale = packed
    fields = (primary, primary if extra is None else extra, scale.unsqueeze(-1))
    strides = [four_dims(field).stride()[:3] for field in fields]
    return primary, fields[1], scale, *strides[0], *strides[1], *strides[2]
