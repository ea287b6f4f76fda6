"""Map or mix head vectors, choose codes that may share their errors, and pack them."""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.code_table import Codebook
from rotorquant.ops.encode import reference
from rotorquant.ops.encode.reference import BLOCK, Dense
from rotorquant.ops.launches import HEAD_DIMS
from rotorquant.ops.mix import Mix
from rotorquant.ops.quantize import Packed, PackedOut, put

__all__ = ["BLOCK", "Dense", "encode", "serves"]

_kernel = dispatch.find_kernel(__name__)


def serves(tensor: torch.Tensor, head_dim: int) -> bool:
    """Whether a kernel takes vectors of `head_dim` values that lie where `tensor` does."""
    return _kernel is not None and dispatch.on_gpu(tensor) and head_dim in HEAD_DIMS


@dispatch.on_one_device
def encode(
    vectors: torch.Tensor,
    book: Codebook,
    by: Dense | Mix,
    matched: bool = True,
    into: PackedOut | None = None,
) -> Packed:
    """Codes and scale of every mapped vector, as `ops.quantize.quantize` returns them.

    Args:
        vectors: [B, H, N, D] of any float dtype.
        book: of 2, 3, 4, 5, 6 or 8 bits.
        by: the map.
        matched, into: as for `quantize`.
    """
    if not by.fits(vectors):
        raise ValueError(f"the {type(by).__name__} map does not fit {tuple(vectors.shape)}")
    if _kernel is not None and serves(vectors, vectors.shape[-1]):
        packed: Packed = _kernel.encode(vectors, book, by, matched, into)
        return packed
    return put(reference.encode(vectors, book.centroids, by, matched), into)
