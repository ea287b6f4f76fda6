"""Dequantize on a GPU: unpack, look up, scale and rotate back, in one launch over all rows.

Also `tile` and `pairs_of`, with which other kernels read rows. The bytes are
those of `ops/planes.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.launches import RowsLaunch, launch_rows
from rotorquant.ops.planes import planes_of
from rotorquant.ops.strides import four_dims

__all__ = ["constants", "dequantize", "dequantize_kernel", "pairs_of", "tile"]


@triton.jit
def _code(byte, group, T: tl.constexpr, P: tl.constexpr, E: tl.constexpr, STEP: tl.constexpr):
    """Field T of int32 bytes and their groups: low + STEP * high, the code itself for STEP 2**P."""
    code = (byte >> (P * T)) & ((1 << P) - 1)
    if E > 0:
        code += ((group >> (E * T)) & ((1 << E) - 1)) * STEP
    return code


@triton.jit
def _looked_up(
    table_ptr, byte, group, T: tl.constexpr, P: tl.constexpr, E: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """What a table has for P bits of bytes [KEYS, columns] and E bits of their groups, the T-th.

    Rows of the table have STEP elements, of which the first counts. Triton brings those that can
    be asked for into shared memory, which needs no addresses of 64 bits and is one step away.
    """
    entry = (byte >> (P * T)) & ((1 << P) - 1)
    if E > 0:
        entry = (entry << E) | ((group >> (E * T)) & ((1 << E) - 1))
    every = tl.arange(0, 1 << (P + E))
    # A row of the table is a byte, and 8 bits above it the byte's group (`decode_table`).
    elements = tl.load(table_ptr + ((every >> E) + (every & ((1 << E) - 1)) * 256) * STEP)
    line: tl.constexpr = byte.shape[0] * byte.shape[1]
    return tl.reshape(tl.gather(elements, tl.reshape(entry, (line,)), 0), byte.shape)


@triton.jit
def _half(word, T: tl.constexpr):
    """The lower or the upper float16 of int32 words."""
    return ((word >> (16 * T)) & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _pair(byte, group, table_ptr, T: tl.constexpr, P: tl.constexpr, E: tl.constexpr):
    """Values of fields T and T + 1, looked up as one word, unless there are too many words.

    A row of the table whose other fields are zero has the values of a field, or of two, in front.
    """
    words_ptr = table_ptr.to(tl.pointer_type(tl.int32))
    if P + E <= 5:
        word = _looked_up(words_ptr, byte, group, T // 2, 2 * P, 2 * E, 4 // P)
        return _half(word, 0), _half(word, 1)
    else:
        one = _looked_up(words_ptr, byte, group, T, P, E, 4 // P)
        two = _looked_up(words_ptr, byte, group, T + 1, P, E, 4 // P)
        return _half(one, 0), _half(two, 0)


@triton.jit
def _bytes(
    primary_ptrs, extra_ptrs, seen, column,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Primary bytes [KEYS, columns] and their groups, int32; pointers [KEYS, 1] to the planes."""
    byte = tl.load(primary_ptrs + column, mask=seen, other=0).to(tl.int32)
    group = byte
    if E > 0:
        WIDTH: tl.constexpr = D * E // 8
        bits = tl.load(extra_ptrs + column % WIDTH, mask=seen, other=0).to(tl.int32)
        # Which of the groups in an extra byte belongs to these columns (`ops/planes.py`).
        group = bits >> (column // WIDTH * (8 // P * E))
    return byte, group


@triton.jit
def tile(
    primary_ptrs, extra_ptrs, table_ptr, seen,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Unscaled rows [KEYS, D] in storage order, of the table's dtype, float16."""
    # [KEYS, D P / 8]
    column = tl.arange(0, D * P // 8)[None, :]
    byte, group = _bytes(primary_ptrs, extra_ptrs, seen, column, D, P, E)
    if P == 8:
        values = _looked_up(table_ptr, byte, group, 0, P, E, 1)
    else:
        one, two = _pair(byte, group, table_ptr, 0, P, E)
        values = tl.join(one, two)
        if P == 2:
            # [KEYS, columns, 2, 2] in the end: fields 0 and 1, then 2 and 3.
            one, two = _pair(byte, group, table_ptr, 2, P, E)
            values = tl.permute(tl.join(values, tl.join(one, two)), (0, 1, 3, 2))
        values = tl.reshape(values, (byte.shape[0], D))
    return values


@triton.jit
def pairs_of(
    primary_ptrs, extra_ptrs, table_ptr, seen, pair,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Unscaled values [KEYS, PAIRS] of dimensions `pair` [1, PAIRS] and `pair` + D/2."""
    COLUMNS: tl.constexpr = D * P // 8
    byte, group = _bytes(primary_ptrs, extra_ptrs, seen, pair % COLUMNS, D, P, E)
    if P == 8:
        one = _looked_up(table_ptr, byte, group, 0, P, E, 1)
        byte, group = _bytes(primary_ptrs, extra_ptrs, seen, pair + D // 2, D, P, E)
        two = _looked_up(table_ptr, byte, group, 0, P, E, 1)
    else:
        if P == 2 and pair.shape[1] > COLUMNS:
            # The pairs from D/4 on are fields 2 and 3
            upper = pair // COLUMNS * 2
            byte, group = byte >> (P * upper), group >> (E * upper)
        one, two = _pair(byte, group, table_ptr, 0, P, E)
    return one, two


@triton.jit
def _put(
    target, dims, seen, one, two, cos_ptr, sin_ptr,
    D: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Store dimensions `dims` and `dims` + D/2, rotated back."""
    if TURN:
        cos, sin = tl.load(cos_ptr + dims), tl.load(sin_ptr + dims)
        one, two = cos * one + sin * two, cos * two - sin * one
    tl.store(target + dims, one.to(target.dtype.element_ty), mask=seen)
    tl.store(target + dims + D // 2, two.to(target.dtype.element_ty), mask=seen)


@triton.jit(do_not_specialize=["tokens"])
def dequantize_kernel(
    primary_ptr, extra_ptr, scale_ptr, centroids_ptr, cos_ptr, sin_ptr, vectors_ptr,
    heads, tokens,
    primary_batch, primary_head, primary_token,
    extra_batch, extra_head, extra_token,
    scale_batch, scale_head, scale_token,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
    W: tl.constexpr, PARTS: tl.constexpr, TURN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Vectors [B, H, N, D], contiguous, of rows at any strides of B, H and N.

    Grid (token tiles, B H). PARTS parts of W columns each share the bytes of the extra plane
    (`constants`).
    """
    F: tl.constexpr = 8 // P
    STEP: tl.constexpr = 1 << P
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    # [BLOCK, 1]
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    seen = token < tokens
    place = batch * scale_batch + head * scale_head + token * scale_token
    scale = tl.load(scale_ptr + place, mask=seen, other=0.0).to(tl.float32)
    source = primary_ptr + batch * primary_batch + head * primary_head + token * primary_token
    target = vectors_ptr + (both * tokens + token) * D
    # [BLOCK, W] from here on
    columns = tl.arange(0, W)[None, :]
    high = tl.zeros((BLOCK, W), tl.int32)
    if E > 0:
        at = extra_ptr + batch * extra_batch + head * extra_head + token * extra_token
        high = tl.load(at + columns, mask=seen, other=0).to(tl.int32)
    for part in tl.static_range(PARTS):
        column = part * W + columns
        byte = tl.load(source + column, mask=seen, other=0).to(tl.int32)
        group = high >> (part * F * E)
        a = _code(byte, group, 0, P, E, STEP)
        if F == 1:
            b = tl.load(source + column + D // 2, mask=seen, other=0).to(tl.int32)
        else:
            b = _code(byte, group, 1, P, E, STEP)
        one, two = tl.load(centroids_ptr + a) * scale, tl.load(centroids_ptr + b) * scale
        _put(target, column, seen, one, two, cos_ptr, sin_ptr, D, TURN)
        if F == 4:
            c, d = _code(byte, group, 2, P, E, STEP), _code(byte, group, 3, P, E, STEP)
            one, two = tl.load(centroids_ptr + c) * scale, tl.load(centroids_ptr + d) * scale
            _put(target, column + D // 4, seen, one, two, cos_ptr, sin_ptr, D, TURN)


def constants(head_dim: int, bits: int, turn: bool, launch: RowsLaunch) -> dict[str, object]:
    """What the kernel is compiled for: bits, and how its columns are cut into parts."""
    planes = planes_of(bits)
    width, parts = planes.column_parts(head_dim)
    return {
        "D": head_dim,
        "P": planes.primary,
        "E": planes.extra,
        "W": width,
        "PARTS": parts,
        "TURN": turn,
        "BLOCK": launch.block_rows,
    }


def dequantize(
    primary: torch.Tensor,
    extra: torch.Tensor | None,
    scale: torch.Tensor,
    centroids: torch.Tensor,
    bits: int,
    rotors: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Vectors [..., D] float32 of rows, in one launch; D is one of `launches.HEAD_DIMS`."""
    shape = scale.shape
    head_dim = primary.shape[-1] * planes_of(bits).fields
    vectors = torch.empty(*shape, head_dim, dtype=torch.float32, device=primary.device)
    if scale.numel() == 0:
        return vectors
    planes = [four_dims(plane) for plane in (primary, primary if extra is None else extra)]
    scales = four_dims(scale.unsqueeze(-1))
    batch, heads, tokens, _ = scales.shape
    launch = launch_rows("dequantize", head_dim, bits, dispatch.capability_of(primary))
    cos, sin = (centroids, centroids) if rotors is None else rotors
    strides = [plane.stride()[:3] for plane in (*planes, scales)]
    dequantize_kernel[(triton.cdiv(tokens, launch.block_rows), batch * heads)](
        *planes, scales, centroids, cos, sin, vectors,
        heads, tokens, *strides[0], *strides[1], *strides[2],
        **constants(head_dim, bits, rotors is not None, launch), num_warps=launch.num_warps,
        enable_fp_fusion=True,
    )  # fmt: skip
    return vectors
