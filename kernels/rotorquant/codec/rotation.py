"""Rotations applied to a head vector before it is quantized.

mode        what it is, on D dimensions
planar      Givens rotors on the pairs (i, i + D/2)
iso         unit quaternions on blocks of four, x -> q x
iso-full    two unit quaternions on blocks of four, x -> p x conj(q): all of SO(4)
rotor       Cl(3,0) rotors on blocks of three, x -> R x ~R
hadamard    a Hadamard matrix after random signs, all dimensions at once
haar        a random orthogonal matrix, all dimensions at once
aligned     Givens rotors of 45 degrees on the pairs that the rotary embedding turns, a Hadamard
            matrix after random signs on all other dimensions

Angles, signs and matrices are random, from one seed, where nothing else is said, and shared by the
layers and heads of a model. The pairs (i, i + D/2) are those of the rotary embedding. A Givens
rotor commutes with it, so what was stored under `planar` or `aligned` can be scored without undoing
the rotation (`ops/attend/reference.py`); the other rotations have to be undone first.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch

from rotorquant.codec.hadamard import hadamard_order, signed_hadamard
from rotorquant.codec.quaternions import random_orthogonal, random_quaternions, random_rotors
from rotorquant.config import MODES
from rotorquant.exceptions import ConfigError
from rotorquant.ops.rotors import turn, turn_back

__all__ = [
    "BlockRotation",
    "DenseRotation",
    "HadamardRotation",
    "PlanarRotation",
    "Rotation",
    "SplitRotation",
    "make_rotation",
    "mixing_matrix",
]


class Rotation(Protocol):
    """An orthogonal map R of the last dimension.

    `pairs`: of the rotary pairs (i, i + D/2), how many, counted from i = 0, are mapped to
    themselves.
    """

    pairs: int

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for x [..., D] float32."""
        ...

    def invert(self, vectors: torch.Tensor) -> torch.Tensor:
        """R^T x for x [..., D] float32."""
        ...


class PlanarRotation:
    """Givens rotors on the pairs (i, i + D/2):

        z_i         = cos(t_i) x_i - sin(t_i) x_(i + D/2)
        z_(i + D/2) = sin(t_i) x_i + cos(t_i) x_(i + D/2)

    Args:
        angles: [D / 2], radians.
    """

    def __init__(self, angles: torch.Tensor) -> None:
        self.pairs = angles.shape[0]
        self.cos = angles.cos()
        self.sin = angles.sin()

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for x [..., D] float32."""
        return turn(vectors, (self.cos, self.sin))

    def invert(self, vectors: torch.Tensor) -> torch.Tensor:
        """R^T x for x [..., D] float32."""
        return turn_back(vectors, (self.cos, self.sin))


class BlockRotation:
    """Small rotations on neighbouring dimensions.

    Args:
        blocks: [G, k, k], for the first G k dimensions.
        rest: [m, m] for the last m dimensions, m < k; they need no padding this way.
    """

    def __init__(self, blocks: torch.Tensor, rest: torch.Tensor) -> None:
        self.pairs = 0
        self.blocks = blocks
        self.rest = rest

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for x [..., D] float32."""
        return self._map(vectors, self.blocks, self.rest)

    def invert(self, vectors: torch.Tensor) -> torch.Tensor:
        """R^T x for x [..., D] float32."""
        return self._map(vectors, self.blocks.mT, self.rest.mT)

    def _map(self, vectors: torch.Tensor, blocks: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        whole = vectors.shape[-1] - rest.shape[0]
        grouped = vectors[..., :whole].unflatten(-1, (-1, blocks.shape[-1]))
        turned = (blocks @ grouped.unsqueeze(-1)).squeeze(-1).flatten(-2)
        return torch.cat((turned, vectors[..., whole:] @ rest.mT), dim=-1)


class HadamardRotation:
    """H diag(signs) with H = A (x) B normalized: D (a + b) multiplications, D = a b.

    Args:
        left: [a, a] and right: [b, b], orthogonal.
        signs: [D], plus and minus one.
    """

    def __init__(self, left: torch.Tensor, right: torch.Tensor, signs: torch.Tensor) -> None:
        self.pairs = 0
        self.left, self.right, self.signs = left, right, signs

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for x [..., D] float32."""
        # (A (x) B) x is A X B^T, with the values of x in order as a matrix X.
        grid = (vectors * self.signs).unflatten(-1, (self.left.shape[0], -1))
        return torch.matmul(self.left, grid @ self.right.mT).flatten(-2)

    def invert(self, vectors: torch.Tensor) -> torch.Tensor:
        """R^T x for x [..., D] float32."""
        grid = vectors.unflatten(-1, (self.left.shape[0], -1))
        return torch.matmul(self.left.mT, grid @ self.right).flatten(-2) * self.signs


class DenseRotation:
    """Any orthogonal matrix [D, D]."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.pairs = 0
        self.matrix = matrix

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for x [..., D] float32."""
        return torch.matmul(vectors, self.matrix.mT)

    def invert(self, vectors: torch.Tensor) -> torch.Tensor:
        """R^T x for x [..., D] float32."""
        return torch.matmul(vectors, self.matrix)


class SplitRotation:
    """One rotation of the first `planar.pairs` rotary pairs, another of all other dimensions.

    Args:
        planar: of the pairs.
        rest: of the D - 2 pairs other dimensions, in ascending order.
        head_dim: D.
        device: where vectors lie.
    """

    def __init__(
        self, planar: PlanarRotation, rest: Rotation, head_dim: int, device: torch.device
    ) -> None:
        self.pairs = planar.pairs
        self._planar, self.rest = planar, rest
        half = head_dim // 2
        dims = torch.arange(head_dim, device=device)
        turned = dims % half < self.pairs
        self._order = torch.cat((dims[turned], dims[~turned]))
        self._place = self._order.argsort()

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """R x for x [..., D] float32."""
        pairs, rest = self._parts(vectors)
        return self._join(self._planar.apply(pairs), self.rest.apply(rest))

    def invert(self, vectors: torch.Tensor) -> torch.Tensor:
        """R^T x for x [..., D] float32."""
        pairs, rest = self._parts(vectors)
        return self._join(self._planar.invert(pairs), self.rest.invert(rest))

    def _parts(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes = [2 * self.pairs, vectors.shape[-1] - 2 * self.pairs]
        pairs, rest = vectors.index_select(-1, self._order).split(sizes, dim=-1)
        return pairs, rest

    def _join(self, pairs: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
        return torch.cat((pairs, rest), dim=-1).index_select(-1, self._place)


def make_rotation(
    mode: str, head_dim: int, seed: int, device: torch.device, pairs: int = 0
) -> Rotation:
    """The rotation of a mode; the same `seed` gives the same one on every device.

    Args:
        mode: one of `MODES`.
        head_dim: D, even; a multiple of 4 for `iso` and `iso-full`.
        seed: of the random parameters.
        device: where vectors lie.
        pairs: rotary pairs that `aligned` has to keep; 0 where rows are stored as they are scored.

    Raises:
        ConfigError: there is no such mode, or no Hadamard matrix of D dimensions is known.
    """
    # On the CPU, whose generator gives the same numbers everywhere.
    draw = torch.Generator().manual_seed(seed)
    if mode == "planar":
        return _planar(head_dim // 2, draw, device)
    if mode in ("iso", "iso-full"):
        blocks = random_quaternions(head_dim // 4, mode == "iso-full", draw)
        return BlockRotation(_on(blocks, device), torch.zeros(0, 0, device=device))
    if mode == "rotor":
        return _rotors(head_dim, draw, device)
    if mode == "hadamard":
        if hadamard_order(head_dim) is None:
            raise ConfigError(
                f"mode 'hadamard' knows no matrix for heads of {head_dim} values; use 'haar'"
            )
        return _mixing(head_dim, draw, device)
    if mode == "haar":
        return DenseRotation(_on(random_orthogonal(head_dim, draw), device))
    if mode == "aligned":
        # An eighth of a turn shares a large channel evenly between the two, a random angle may not.
        even = PlanarRotation(torch.full((pairs,), math.pi / 4, device=device))
        if 2 * pairs == head_dim:
            return even
        rest = _mixing(head_dim - 2 * pairs, draw, device)
        return SplitRotation(even, rest, head_dim, device) if pairs else rest
    raise ConfigError(f"mode is {mode!r}; allowed are {', '.join(MODES)}")


def mixing_matrix(size: int) -> torch.Tensor:
    """An orthogonal matrix [size, size] float64: Hadamard where there is one, else a random one."""
    factors = signed_hadamard(size)
    if factors is None:
        # Of a fixed seed, because a calibration has to give the same frame every time.
        return random_orthogonal(size, torch.Generator().manual_seed(size))
    left, right = (torch.tensor(matrix, dtype=torch.float64) for matrix in factors)
    return torch.div(torch.kron(left, right), size**0.5)


def _on(matrix: torch.Tensor, device: torch.device) -> torch.Tensor:
    return matrix.to(device=device, dtype=torch.float32)


def _planar(pairs: int, draw: torch.Generator, device: torch.device) -> PlanarRotation:
    angles = torch.rand(pairs, generator=draw, dtype=torch.float64) * (2 * math.pi)
    return PlanarRotation(_on(angles, device))


def _rotors(head_dim: int, draw: torch.Generator, device: torch.device) -> BlockRotation:
    """Rotors on triples; two dimensions left over have the one plane e12, a single one stays."""
    groups, left_over = divmod(head_dim, 3)
    # The one more is what two dimensions left over use; it turns in e12 alone.
    matrices = _on(random_rotors(groups + 1, draw), device)
    rest = torch.eye(1, device=device) if left_over == 1 else matrices[groups]
    return BlockRotation(matrices[:groups], rest[:left_over, :left_over])


def _mixing(size: int, draw: torch.Generator, device: torch.device) -> Rotation:
    """All dimensions with all: Hadamard where there is one, else a random orthogonal matrix."""
    factors = signed_hadamard(size)
    if factors is None:
        return DenseRotation(_on(random_orthogonal(size, draw), device))
    signs = torch.randint(0, 2, (size,), generator=draw) * 2 - 1
    left, right = (torch.tensor(matrix, dtype=torch.float64) for matrix in factors)
    return HadamardRotation(
        _on(left / left.shape[0] ** 0.5, device),
        _on(right / right.shape[0] ** 0.5, device),
        _on(signs, device),
    )
