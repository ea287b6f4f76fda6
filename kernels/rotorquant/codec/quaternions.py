"""Random orthogonal matrices from quaternions, from rotors and from Gaussians, all in float64.

Products follow Hamilton's rules with the real part first. The even part of Cl(3,0) is isomorphic
to the quaternions: a rotor s + b12 e12 + b13 e13 + b23 e23 acts as s - b23 i + b13 j - b12 k.
"""

from __future__ import annotations

import math

import torch

__all__ = [
    "left_product",
    "random_orthogonal",
    "random_quaternions",
    "random_rotors",
    "right_product",
    "sandwich",
]


def random_quaternions(blocks: int, full: bool, draw: torch.Generator) -> torch.Tensor:
    """[blocks, 4, 4] of x -> p x, or with `full` of x -> p x conj(q); p, q uniform, of length 1.

    The first is half of the rotations of four dimensions, the second all (arXiv 2603.28430).
    """
    left, right = _unit(blocks, 4, draw), _unit(blocks, 4, draw)
    # Multiplying by conj(q) is the transpose of multiplying by q.
    return torch.matmul(left_product(left), right_product(right).mT) if full else left_product(left)


def random_rotors(count: int, draw: torch.Generator) -> torch.Tensor:
    """[count, 3, 3] of x -> R x ~R, R = cos(t/2) + sin(t/2) B; the last one turns in e12 alone.

    B is a normalized Gaussian bivector and t uniform in [0, 2 pi), as published with RotorQuant. A
    vector stays a vector under the sandwich, so there is no trivector part to store.
    """
    half = torch.rand(count, generator=draw, dtype=torch.float64) * math.pi
    planes = _unit(count, 3, draw)
    planes[-1] = torch.tensor([1.0, 0.0, 0.0])
    return sandwich(torch.cat((half.cos()[:, None], half.sin()[:, None] * planes), dim=-1))


def random_orthogonal(size: int, draw: torch.Generator) -> torch.Tensor:
    """[size, size], Haar: QR of a Gaussian, signs fixed (Mezzadri 2007, math-ph/0609050)."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    return torch.mul(q, r.diagonal().sign())


def left_product(q: torch.Tensor) -> torch.Tensor:
    """[G, 4, 4] of x -> q x for quaternions q [G, 4]."""
    w, x, y, z = q.unbind(-1)
    return _matrix(((w, -x, -y, -z), (x, w, -z, y), (y, z, w, -x), (z, -y, x, w)))


def right_product(q: torch.Tensor) -> torch.Tensor:
    """[G, 4, 4] of x -> x q."""
    w, x, y, z = q.unbind(-1)
    return _matrix(((w, -x, -y, -z), (x, w, z, -y), (y, -z, w, x), (z, y, -x, w)))


def sandwich(rotors: torch.Tensor) -> torch.Tensor:
    """[G, 3, 3] of x -> R x ~R for unit rotors [G, 4]: scalar, e12, e13, e23."""
    s, b12, b13, b23 = rotors.unbind(-1)
    q = torch.stack((s, -b23, b13, -b12), dim=-1)
    return torch.matmul(left_product(q), right_product(q).mT)[:, 1:, 1:]


def _matrix(rows: tuple[tuple[torch.Tensor, ...], ...]) -> torch.Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _unit(count: int, size: int, draw: torch.Generator) -> torch.Tensor:
    """[count, size], uniform on the sphere."""
    vectors = torch.randn(count, size, generator=draw, dtype=torch.float64)
    return vectors.div(torch.linalg.vector_norm(vectors, dim=-1, keepdim=True))
