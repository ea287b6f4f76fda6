"""Quantize and pack rotated head vectors: codes in bit planes, one fp16 scale per vector."""

from __future__ import annotations

import contextlib
from types import ModuleType

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.launches import HEAD_DIMS
from rotorquant.ops.planes import HEAD_DIM_STEP, PACKED_BITS
from rotorquant.ops.quantize import reference
from rotorquant.ops.rotors import Rotors, turn

__all__ = ["pack_codes", "quantize"]

_kernel: ModuleType | None = None
if torch.backends.cuda.is_built():  # ROCm says so, too; most such builds bring Triton
    with contextlib.suppress(ImportError):
        from rotorquant.ops.quantize import kernel as _kernel


def quantize(
    vectors: torch.Tensor, centroids: torch.Tensor, bits: int, rotors: Rotors | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Codes and matched-norm scale of every vector.

    Args:
        vectors: [..., D] of any float dtype, already rotated but for `rotors`; D a multiple of 8.
        centroids: [2**bits] float32, ascending, for unit variance.
        bits: 2, 3, 4, 5, 6 or 8.
        rotors: turn the vectors first, or None.

    Returns:
        primary plane [..., D * primary / 8] uint8, extra plane [..., D * extra / 8] uint8 or None
        where the width has none (`ops.planes`), scale [...] float16.
    """
    _check(vectors.shape[-1], bits)
    if centroids.shape != (2**bits,):
        raise ValueError(f"centroids have shape {tuple(centroids.shape)}; {bits} bits need 2**bits")
    if _kernel is not None and dispatch.on_gpu(vectors) and vectors.shape[-1] in HEAD_DIMS:
        packed: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]
        packed = _kernel.quantize(vectors, centroids, bits, rotors)
        return packed
    turned = vectors if rotors is None else turn(vectors.float(), rotors)
    return reference.quantize(turned, centroids, bits)


def pack_codes(codes: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Planes of codes [..., D] uint8 (values below 2**bits), as `quantize` returns them."""
    _check(codes.shape[-1], bits)
    return reference.pack_codes(codes, bits)


def _check(head_dim: int, bits: int) -> None:
    if bits not in PACKED_BITS:
        raise ValueError(f"bits is {bits}; packed are {PACKED_BITS}")
    if head_dim % HEAD_DIM_STEP or head_dim == 0:
        raise ValueError(f"vectors have {head_dim} values; packed are multiples of {HEAD_DIM_STEP}")
