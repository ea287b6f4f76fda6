"""Quantize and pack rotated head vectors: codes in bit planes, one fp16 scale per vector."""

from __future__ import annotations

import torch

from rotorquant.ops.planes import HEAD_DIM_STEP, PACKED_BITS
from rotorquant.ops.quantize import reference

__all__ = ["pack_codes", "quantize"]


def quantize(
    vectors: torch.Tensor, centroids: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Codes and matched-norm scale of every vector.

    Args:
        vectors: [..., D] of any float dtype, already rotated; D a multiple of 8.
        centroids: [2**bits] float32, ascending, for unit variance.
        bits: 2, 3, 4, 5, 6 or 8.

    Returns:
        primary plane [..., D * primary / 8] uint8, extra plane [..., D * extra / 8] uint8 or None
        where the width has none (`ops.planes`), scale [...] float16.
    """
    _check(vectors.shape[-1], bits)
    if centroids.shape != (2**bits,):
        raise ValueError(f"centroids have shape {tuple(centroids.shape)}; {bits} bits need 2**bits")
    return reference.quantize(vectors, centroids, bits)


def pack_codes(codes: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Planes of codes [..., D] uint8 (values below 2**bits), as `quantize` returns them."""
    _check(codes.shape[-1], bits)
    return reference.pack_codes(codes, bits)


def _check(head_dim: int, bits: int) -> None:
    if bits not in PACKED_BITS:
        raise ValueError(f"bits is {bits}; packed are {PACKED_BITS}")
    if head_dim % HEAD_DIM_STEP or head_dim == 0:
        raise ValueError(f"vectors have {head_dim} values; packed are multiples of {HEAD_DIM_STEP}")
