"""Mix the values of head vectors by signs, as Hadamard rotations do, and pack their codes."""

from __future__ import annotations

import contextlib
from types import ModuleType

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.codebook import Codebook
from rotorquant.ops.mix import reference
from rotorquant.ops.mix.reference import Mix, mix
from rotorquant.ops.quantize import Packed, Room, put

__all__ = ["Mix", "mix", "mix_packed", "serves"]


_kernel: ModuleType | None = None
if torch.backends.cuda.is_built():  # ROCm says so, too; most such builds bring Triton
    with contextlib.suppress(ImportError):
        from rotorquant.ops.mix import kernel as _kernel


def serves(tensor: torch.Tensor, by: Mix) -> bool:
    """Whether a kernel takes vectors that lie where `tensor` does."""
    least = min(len(by.left), len(by.right))
    return _kernel is not None and dispatch.on_gpu(tensor) and least >= 16


def mix_packed(
    vectors: torch.Tensor,
    book: Codebook,
    by: Mix,
    matched: bool = True,
    into: Room | None = None,
) -> Packed:
    """Codes and scale of every mixed vector, as `ops.quantize.quantize` returns them.

    Args:
        vectors: [B, H, N, D] of any float dtype.
        book: of 2, 3, 4, 5, 6 or 8 bits.
        by: how they are mixed.
        matched, into: as for `quantize`.
    """
    if vectors.shape[-1:] != by.signs.shape:
        raise ValueError(f"signs {tuple(by.signs.shape)} do not fit {tuple(vectors.shape)}")
    if _kernel is not None and serves(vectors, by):
        packed: Packed = _kernel.mix_packed(vectors, book, by, matched, into)
        return packed
    return put(reference.mix_packed(vectors, book.centroids, by, matched), into)
