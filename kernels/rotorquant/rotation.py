"""Rotations applied to a head vector before it is quantized.

`planar`: one Givens rotor per pair (i, i + D/2), its angle uniform in [0, 2 pi) and shared by all
layers and heads of a model:

    z_i = cos(t_i) x_i - sin(t_i) x_(i + D/2)      z_(i + D/2) = sin(t_i) x_i + cos(t_i) x_(i + D/2)

These are the pairs of the rotary embedding, so the rotor commutes with it, and what is stored can
be scored without undoing the rotation (`ops/attend/reference.py`).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch

from rotorquant.errors import ConfigError

__all__ = ["PlanarRotation", "Rotation", "make_rotation"]


class Rotation(Protocol):
    """An orthogonal map of the last dimension that keeps every pair that RoPE turns to itself."""

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for x [..., D] float32."""
        ...

    def invert(self, vectors: torch.Tensor) -> torch.Tensor:
        """R^T x for x [..., D] float32."""
        ...


class PlanarRotation:
    """Givens rotors on the pairs (i, i + D/2).

    Args:
        angles: [D / 2], radians.
    """

    def __init__(self, angles: torch.Tensor) -> None:
        self.cos = angles.cos()
        self.sin = angles.sin()

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for x [..., D] float32."""
        return self._turn(vectors, self.sin)

    def invert(self, vectors: torch.Tensor) -> torch.Tensor:
        """R^T x for x [..., D] float32."""
        return self._turn(vectors, -self.sin)

    def _turn(self, vectors: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        one, two = vectors.chunk(2, dim=-1)
        return torch.cat((self.cos * one - sin * two, sin * one + self.cos * two), dim=-1)


def make_rotation(mode: str, head_dim: int, seed: int, device: torch.device) -> Rotation:
    """The rotation of a mode; the same `seed` gives the same one on every device.

    Raises:
        ConfigError: there is no such mode.
    """
    if mode != "planar":
        raise ConfigError(f"mode is {mode!r}; allowed are planar")
    generator = torch.Generator().manual_seed(seed)
    angles = torch.rand(head_dim // 2, generator=generator, dtype=torch.float64) * (2 * math.pi)
    return PlanarRotation(angles.to(device=device, dtype=torch.float32))
