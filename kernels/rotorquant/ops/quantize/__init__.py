"""Quantize and pack rotated head vectors: codes in bit planes, one fp16 scale per vector."""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.code_table import Codebook, make_codebook
from rotorquant.ops.launches import HEAD_DIMS
from rotorquant.ops.planes import HEAD_DIM_STEP, PACKED_BITS
from rotorquant.ops.quantize import reference
from rotorquant.ops.quantize.reference import Packed, PackedOut, put
from rotorquant.ops.rotors import Rotors, turn

__all__ = ["Codebook", "Packed", "PackedOut", "make_codebook", "pack_codes", "put", "quantize"]

_kernel = dispatch.find_kernel(__name__)


@dispatch.on_one_device
def quantize(
    vectors: torch.Tensor,
    book: Codebook,
    rotors: Rotors | None = None,
    matched: bool = True,
    into: PackedOut | None = None,
) -> Packed:
    """Codes and scale of every vector.

    Args:
        vectors: [..., D] of any float dtype, already rotated but for `rotors`; D a multiple of 8.
        book: of 2, 3, 4, 5, 6 or 8 bits.
        rotors: turn the vectors first, or None.
        matched: the scale makes decoded vectors as long as they were; else it is |y| / sqrt(D).
        into: where the result goes, at any strides of all but the last dimension; new by default.

    Returns:
        primary plane [..., D * primary / 8] uint8, extra plane [..., D * extra / 8] uint8 or None
        where the width has none (`ops.planes`), scale [...] float16.
    """
    _check(vectors.shape[-1], book.bits)
    if _kernel is not None and dispatch.on_gpu(vectors) and vectors.shape[-1] in HEAD_DIMS:
        packed: Packed = _kernel.quantize(vectors, book, rotors, matched, into)
        return packed
    turned = vectors if rotors is None else turn(vectors.float(), rotors)
    return put(reference.quantize(turned, book.centroids, matched), into)


def pack_codes(codes: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Planes of codes [..., D] uint8 (values below 2**bits), as `quantize` returns them."""
    _check(codes.shape[-1], bits)
    return reference.pack_codes(codes, bits)


def _check(head_dim: int, bits: int) -> None:
    if bits not in PACKED_BITS:
        raise ValueError(f"bits is {bits}; packed are {PACKED_BITS}")
    if head_dim % HEAD_DIM_STEP or head_dim == 0:
        raise ValueError(f"vectors have {head_dim} values; packed are multiples of {HEAD_DIM_STEP}")
