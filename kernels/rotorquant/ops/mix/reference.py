"""Specification of a map made of signs.

A vector is a grid [A, B] of its values in order. With signs s, matrices R [B, B] and L [A, A] of
zeros and signs, and a gain g for every line of the grid,

    y = (s x) R^T  on the lines that are mixed, s x on the others        z = g (L y)
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Mix", "mix"]


class Mix(NamedTuple):
    """A map made of signs, all float32: signs [D], right [B, B], mixed [A] of ones and zeros, left
    [A, A], gain [A]. A and B are 16 at least, because tensor cores take no less.
    """

    signs: torch.Tensor
    right: torch.Tensor
    mixed: torch.Tensor
    left: torch.Tensor
    gain: torch.Tensor

    def fits(self, vectors: torch.Tensor) -> bool:
        """Whether it maps vectors [..., D]."""
        return vectors.shape[-1:] == self.signs.shape and min(len(self.left), len(self.right)) >= 16


def mix(vectors: torch.Tensor, by: Mix) -> torch.Tensor:
    """z [..., D] of vectors [..., D] float32."""
    grid = (vectors * by.signs).unflatten(-1, (len(by.left), -1))
    lines = torch.where(by.mixed[:, None] > 0, grid @ by.right.mT, grid)
    return torch.mul(by.left @ lines, by.gain[:, None]).flatten(-2)
