"""Specification of the mix op.

A vector is a grid [A, B] of its values in order. With signs s, matrices R [B, B] and L [A, A] of
zeros and signs, and a gain g for every line of the grid,

    y = (s x) R^T  on the lines that are mixed, s x on the others        z = g (L y)

and then codes and scale of z (`ops/quantize`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from rotorquant.ops.quantize.reference import Packed, quantize

__all__ = ["Mix", "mix", "mix_packed"]


class Mix(NamedTuple):
    """See above; all float32: signs [D], right [B, B], mixed [A] of ones and zeros, left [A, A],
    gain [A].
    """

    signs: torch.Tensor
    right: torch.Tensor
    mixed: torch.Tensor
    left: torch.Tensor
    gain: torch.Tensor


def mix(vectors: torch.Tensor, by: Mix) -> torch.Tensor:
    """z [..., D] of vectors [..., D] float32."""
    grid = (vectors * by.signs).unflatten(-1, (len(by.left), -1))
    lines = torch.where(by.mixed[:, None] > 0, grid @ by.right.mT, grid)
    return torch.mul(by.left @ lines, by.gain[:, None]).flatten(-2)


def mix_packed(vectors: torch.Tensor, centroids: torch.Tensor, by: Mix, matched: bool) -> Packed:
    """See `rotorquant.ops.mix.mix_packed`."""
    return quantize(mix(vectors.float(), by), centroids, matched)
