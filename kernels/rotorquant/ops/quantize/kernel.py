"""Quantize on a GPU: rotate, scale, nearest centroid, pack, in one launch over all vectors.

A program reads its vectors twice, the second time from the cache: first for their length, then a
pair (d, d + D/2) at a time, which is both what a planar rotor turns and what shares a byte. The
formulas are those of `reference.py`, the bytes those of `ops/planes.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.launches import RowsLaunch, launch_rows
from rotorquant.ops.planes import planes_of

__all__ = ["constants", "quantize", "quantize_kernel"]


@triton.jit
def _nearest(unit, bounds_ptr, BITS: tl.constexpr):
    """Number of boundaries below every value, by halving: int32 of the shape of `unit`."""
    code = tl.zeros_like(unit).to(tl.int32)
    for step in tl.static_range(BITS):
        bound = tl.load(bounds_ptr + code + ((1 << (BITS - 1 - step)) - 1))
        code += tl.where(unit > bound, 1 << (BITS - 1 - step), 0)
    return code


@triton.jit
def _pair(
    row_ptrs, dims, seen, sigma, cos_ptr, sin_ptr, bounds_ptr, centroids_ptr,
    D: tl.constexpr, BITS: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Codes [BLOCK, W] of dimensions `dims` and `dims` + D/2; what they add to |c|^2 [BLOCK]."""
    one = tl.load(row_ptrs + dims, mask=seen, other=0.0).to(tl.float32)
    two = tl.load(row_ptrs + dims + D // 2, mask=seen, other=0.0).to(tl.float32)
    if TURN:
        cos, sin = tl.load(cos_ptr + dims), tl.load(sin_ptr + dims)
        one, two = cos * one - sin * two, sin * one + cos * two
    first = _nearest(one / sigma, bounds_ptr, BITS)
    second = _nearest(two / sigma, bounds_ptr, BITS)
    near, far = tl.load(centroids_ptr + first), tl.load(centroids_ptr + second)
    return first, second, tl.sum(near * near + far * far, 1)


@triton.jit
def quantize_kernel(
    vectors_ptr, cos_ptr, sin_ptr, bounds_ptr, centroids_ptr,
    primary_ptr, extra_ptr, scale_ptr,
    rows, heads, tokens, batch_stride, head_stride, token_stride,
    D: tl.constexpr, BITS: tl.constexpr, P: tl.constexpr, E: tl.constexpr,
    W: tl.constexpr, PARTS: tl.constexpr, ROOT: tl.constexpr, TURN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Planes and scales of vectors [B, H, N, D] at any strides of B, H and N.

    P and E are the bits of the two parts of a code; a program takes the primary bytes in PARTS
    parts of W columns, as many as share one byte of the extra plane. ROOT is sqrt(D).
    """
    F: tl.constexpr = 8 // P
    LOW: tl.constexpr = (1 << P) - 1
    # [BLOCK, 1]
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    seen = row < rows
    token, head, batch = row % tokens, (row // tokens) % heads, row // tokens // heads
    row_ptrs = vectors_ptr + batch * batch_stride + head * head_stride + token * token_stride
    # [BLOCK, D]
    whole = tl.load(row_ptrs + tl.arange(0, D)[None, :], mask=seen, other=0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(whole * whole, 1))
    sigma = tl.maximum(norm / ROOT, 1.1754943508222875e-38)[:, None]
    # [BLOCK, W] from here on
    columns = tl.arange(0, W)[None, :]
    energy = tl.zeros((BLOCK,), tl.float32)
    high = tl.zeros((BLOCK, W), tl.int32)
    for part in tl.static_range(PARTS):
        column = part * W + columns
        a, b, more = _pair(
            row_ptrs, column, seen, sigma, cos_ptr, sin_ptr, bounds_ptr, centroids_ptr,
            D, BITS, TURN,
        )  # fmt: skip
        energy += more
        target = primary_ptr + row * (D // F) + column
        if F == 1:
            byte = a
            tl.store(target + D // 2, b.to(tl.uint8), mask=seen)
        else:
            byte = (a & LOW) | ((b & LOW) << P)
            group = (a >> P) | ((b >> P) << E)
            if F == 4:
                c, d, more = _pair(
                    row_ptrs, column + D // 4, seen, sigma, cos_ptr, sin_ptr, bounds_ptr,
                    centroids_ptr, D, BITS, TURN,
                )  # fmt: skip
                energy += more
                byte |= ((c & LOW) << (2 * P)) | ((d & LOW) << (3 * P))
                group |= ((c >> P) << (2 * E)) | ((d >> P) << (3 * E))
            high |= group << (part * F * E)
        tl.store(target, byte.to(tl.uint8), mask=seen)
    if E > 0:
        tl.store(extra_ptr + row * W + columns, high.to(tl.uint8), mask=seen)
    scale = (norm / tl.sqrt(energy))[:, None]
    tl.store(scale_ptr + row, scale.to(tl.float16), mask=seen)


def constants(head_dim: int, bits: int, turn: bool, launch: RowsLaunch) -> dict[str, object]:
    """What the kernel is compiled for; without an extra plane one part has all columns."""
    planes = planes_of(bits)
    columns = head_dim // max(planes.fields, 2)
    width = planes.extra_bytes(head_dim) or columns
    return {
        "D": head_dim,
        "BITS": bits,
        "P": planes.primary,
        "E": planes.extra,
        "W": width,
        "PARTS": columns // width,
        "ROOT": head_dim**0.5,
        "TURN": turn,
        "BLOCK": launch.block_rows,
    }


def quantize(
    vectors: torch.Tensor,
    centroids: torch.Tensor,
    bits: int,
    rotors: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """See `rotorquant.ops.quantize.quantize`; D is one of `launches.HEAD_DIMS`."""
    planes, shape = planes_of(bits), vectors.shape
    head_dim = shape[-1]
    if vectors.stride(-1) != 1:
        vectors = vectors.contiguous()
    if len(shape) > 4:
        vectors = vectors.reshape(-1, *shape[-3:])
    vectors = vectors[(None,) * (4 - vectors.ndim)]
    batch, heads, tokens, _ = vectors.shape

    def new(columns: int) -> torch.Tensor:
        return torch.empty(*shape[:-1], columns, dtype=torch.uint8, device=vectors.device)

    primary = new(planes.primary_bytes(head_dim))
    extra = new(planes.extra_bytes(head_dim)) if planes.extra else None
    scale = torch.empty(shape[:-1], dtype=torch.float16, device=vectors.device)
    rows = batch * heads * tokens
    if rows == 0:
        return primary, extra, scale
    launch = launch_rows("quantize", head_dim, bits, dispatch.capability_of(vectors))
    bounds = (centroids[1:] + centroids[:-1]) / 2
    cos, sin = (centroids, centroids) if rotors is None else rotors
    quantize_kernel[(triton.cdiv(rows, launch.block_rows),)](
        vectors, cos, sin, bounds, centroids,
        primary, primary if extra is None else extra, scale,
        rows, heads, tokens, *vectors.stride()[:3],
        **constants(head_dim, bits, rotors is not None, launch), num_warps=launch.num_warps,
        enable_fp_fusion=False,
    )  # fmt: skip
    return primary, extra, scale
