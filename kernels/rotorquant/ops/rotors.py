"""Planar rotors, which quantize and dequantize can take along: see `rotorquant.codec.rotation`."""

from __future__ import annotations

import torch

__all__ = ["Rotors", "turn", "turn_back"]

Rotors = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines [D / 2] float32 of the angles of the pairs (i, i + D/2)."""


def turn(vectors: torch.Tensor, rotors: Rotors) -> torch.Tensor:
    """R x for x [..., D] float32: (cos x_i - sin x_(i + D/2), sin x_i + cos x_(i + D/2))."""
    cos, sin = rotors
    one, two = vectors.chunk(2, dim=-1)
    return torch.cat((cos * one - sin * two, sin * one + cos * two), dim=-1)


def turn_back(vectors: torch.Tensor, rotors: Rotors) -> torch.Tensor:
    """R^T x for x [..., D] float32."""
    cos, sin = rotors
    return turn(vectors, (cos, -sin))
