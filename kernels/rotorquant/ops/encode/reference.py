"""Specification of the encode op, in float32: z = T (x - m), then codes and scale of z.

T is a matrix, `Dense`, or made of signs, `Mix` (`ops/mix`), without m.

Without feedback codes are those of `ops/quantize`. With feedback F, zero on and below the blocks of
`BLOCK` dimensions on its diagonal, they are chosen from the last block to the first, and with
u = z / sigma and the errors e = u - c[code] of the later blocks

    code_b = nearest(u_b + sum over later blocks l of F_bl e_l)

(`rotorquant/calibration/statistics.py` says what for).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from rotorquant.ops.mix import Mix, mix
from rotorquant.ops.quantize.reference import Packed, finish, quantize, standardized

__all__ = ["BLOCK", "Dense", "encode", "shaped_codes"]

BLOCK = 32


class Dense(NamedTuple):
    """A map of head vectors, float32.

    matrix: [H, D, D], T, or [1, D, D] for all heads.
    offset: [H, 1, D], m, or None. feedback: [H, D, D], F, or None; both of as many heads as T.
    """

    matrix: torch.Tensor
    offset: torch.Tensor | None = None
    feedback: torch.Tensor | None = None

    def fits(self, vectors: torch.Tensor) -> bool:
        """Whether it maps vectors [B, H, N, D]."""
        _, heads, _, head_dim = vectors.shape
        return self.matrix.shape[0] in (1, heads) and self.matrix.shape[1:] == (head_dim, head_dim)


def encode(
    vectors: torch.Tensor, centroids: torch.Tensor, by: Dense | Mix, matched: bool
) -> Packed:
    """Planes and scales of vectors [B, H, N, D], mapped by a matrix or by signs."""
    if isinstance(by, Mix):
        return quantize(mix(vectors.float(), by), centroids, matched)
    moved = vectors.float() if by.offset is None else vectors.float() - by.offset
    inner = moved @ by.matrix.mT
    if by.feedback is None:
        return quantize(inner, centroids, matched)
    unit, norm = standardized(inner)
    return finish(shaped_codes(unit, by.feedback, centroids), norm, centroids, matched)


def shaped_codes(
    unit: torch.Tensor, feedback: torch.Tensor, centroids: torch.Tensor
) -> torch.Tensor:
    """Codes [B, H, N, D] int32 of vectors of unit variance, [B, H, N, D] float32.

    Args:
        unit: the vectors.
        feedback: [H, D, D], F.
        centroids: [2**bits], ascending.
    """
    boundaries = (centroids[1:] + centroids[:-1]) / 2
    codes = torch.empty_like(unit, dtype=torch.int32)
    errors = torch.empty_like(unit)
    # From the last block on: F passes errors to earlier blocks alone.
    for low in reversed(range(0, unit.shape[-1], BLOCK)):
        block, later = slice(low, low + BLOCK), slice(low + BLOCK, None)
        wanted = unit[..., block] + errors[..., later] @ feedback[:, block, later].mT
        codes[..., block] = torch.bucketize(wanted, boundaries, out_int32=True)
        errors[..., block] = unit[..., block] - centroids[codes[..., block]]
    return codes
