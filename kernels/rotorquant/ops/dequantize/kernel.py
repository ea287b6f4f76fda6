"""Dequantize on a GPU: unpack, look up, scale and rotate back, in one launch over all rows.

Also `tile` and `picked`, with which other kernels read rows. The bytes are
those of `ops/planes.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.launches import RowsLaunch, launch_rows
from rotorquant.ops.planes import planes_of

__all__ = ["constants", "dequantize", "dequantize_kernel", "picked", "tile"]


@triton.jit
def _code(byte, group, T: tl.constexpr, P: tl.constexpr, E: tl.constexpr, STEP: tl.constexpr):
    """Field T of int32 bytes and their groups: low + STEP * high, the code itself for STEP 2**P."""
    code = (byte >> (P * T)) & ((1 << P) - 1)
    if E > 0:
        code += ((group >> (E * T)) & ((1 << E) - 1)) * STEP
    return code


@triton.jit
def _field(byte, group, table_ptr, T: tl.constexpr, P: tl.constexpr, E: tl.constexpr):
    """Float16 values of field T: the table's entry whose other fields are zero has it in front."""
    code = _code(byte, group, T, P, E, 256)
    return tl.load(table_ptr + code * (8 // P)).to(tl.float16)


@triton.jit
def tile(
    primary_ptrs, extra_ptrs, table_ptr, seen,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Unscaled rows [KEYS, D] float16 in storage order; pointers [KEYS, 1] to their planes."""
    F: tl.constexpr = 8 // P
    # [KEYS, D / F]
    column = tl.arange(0, D // F)[None, :]
    byte = tl.load(primary_ptrs + column, mask=seen, other=0).to(tl.int32)
    group = byte
    if E > 0:
        WIDTH: tl.constexpr = D * E // 8
        bits = tl.load(extra_ptrs + column % WIDTH, mask=seen, other=0).to(tl.int32)
        group = bits >> (column // WIDTH * (F * E))
    values = _field(byte, group, table_ptr, 0, P, E)
    if F == 2:
        values = tl.interleave(values, _field(byte, group, table_ptr, 1, P, E))
    elif F == 4:
        even = tl.interleave(values, _field(byte, group, table_ptr, 2, P, E))
        odd = tl.interleave(
            _field(byte, group, table_ptr, 1, P, E), _field(byte, group, table_ptr, 3, P, E)
        )
        values = tl.interleave(even, odd)
    return values


@triton.jit
def picked(
    primary_ptrs, extra_ptrs, table_ptr, seen, place,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """Unscaled values [KEYS, PAIRS] float32 at places [1, PAIRS] of the storage order."""
    F: tl.constexpr = 8 // P
    column, field = place // F, place % F
    byte = tl.load(primary_ptrs + column, mask=seen, other=0).to(tl.int32)
    code = (byte >> (field * P)) & ((1 << P) - 1)
    if E > 0:
        WIDTH: tl.constexpr = D * E // 8
        bits = tl.load(extra_ptrs + column % WIDTH, mask=seen, other=0).to(tl.int32)
        code += ((bits >> (column // WIDTH * (F * E) + field * E)) & ((1 << E) - 1)) * 256
    return tl.load(table_ptr + code * F)


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
    """What the kernel is compiled for; without an extra plane one part has all columns."""
    planes = planes_of(bits)
    columns = head_dim // max(planes.fields, 2)
    width = planes.extra_bytes(head_dim) or columns
    return {
        "D": head_dim,
        "P": planes.primary,
        "E": planes.extra,
        "W": width,
        "PARTS": columns // width,
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
    """See `rotorquant.ops.dequantize.dequantize`; D is one of `launches.HEAD_DIMS`."""
    shape = scale.shape
    head_dim = primary.shape[-1] * planes_of(bits).fields
    vectors = torch.empty(*shape, head_dim, dtype=torch.float32, device=primary.device)
    if scale.numel() == 0:
        return vectors
    planes = [_rows(plane) for plane in (primary, primary if extra is None else extra)]
    scales = _rows(scale.unsqueeze(-1))
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


def _rows(plane: torch.Tensor) -> torch.Tensor:
    """[..., bytes] as [B, H, N, bytes], with bytes next to each other."""
    if plane.shape[-1] != 1 and plane.stride(-1) != 1:
        plane = plane.contiguous()
    if plane.ndim > 4:
        return plane.reshape(-1, *plane.shape[-3:])
    return plane[(None,) * (4 - plane.ndim)]
