"""Hadamard rotations as the mix op takes them: signs on a grid of all dimensions.

A vector of D values is a grid of 16 lines. The matrix of a Hadamard rotation is a Kronecker
product, so it mixes the columns of the grid and then its lines. Under `aligned` some lines belong
to the rotary pairs (i, i + D/2), which lie eight lines apart, and an eighth of a turn is
[[1, -1], [1, 1]] / sqrt(2): signs, too.
"""

from __future__ import annotations

import torch

from rotorquant.codec.rotation import HadamardRotation, Rotation, SplitRotation
from rotorquant.ops.mix import Mix, mix

__all__ = ["mix_of"]

_LINES = 16  # and as many columns at least: a tensor core takes no less
_TOLERANCE = 1e-5  # of float32 entries below 1


def mix_of(rotation: Rotation, head_dim: int) -> Mix | None:
    """The same map as signs on a grid, or None where it has no such form."""
    columns = head_dim // _LINES
    if isinstance(rotation, SplitRotation):
        mixing, pairs = rotation.rest, rotation.pairs
    else:
        mixing, pairs = rotation, 0
    if not isinstance(mixing, HadamardRotation) or columns < _LINES or pairs % columns:
        return None
    left, right = _regrouped(mixing.left.sign(), mixing.right.sign(), columns)
    half, turned = _LINES // 2, pairs // columns
    lines = [line for line in range(_LINES) if line % half >= turned]
    if left.shape[0] * right.shape[0] != len(lines) * columns or right.shape[0] != columns:
        return None
    whole, mixed = left.new_zeros(_LINES, _LINES), left.new_zeros(_LINES)
    for line in range(turned):
        whole[line, line] = whole[line + half, line] = whole[line + half, line + half] = 1
        whole[line, line + half] = -1
    at = torch.tensor(lines, device=left.device)
    whole[at[:, None], at] = left
    mixed[at] = 1
    # Signs have no length: what makes the map orthogonal is one factor for each line.
    gain = torch.where(mixed > 0, (len(lines) * columns) ** -0.5, 0.5**0.5)
    signs = left.new_ones(_LINES, columns)
    signs[at] = mixing.signs.view(len(lines), columns)
    found = Mix(signs.flatten(), right.contiguous(), mixed, whole, gain)
    # The construction has many cases; one product with the unit matrix decides whether it holds.
    eye = torch.eye(head_dim, device=left.device)
    same = float((mix(eye, found) - rotation.apply(eye)).abs().max()) < _TOLERANCE
    return found if same else None


def _regrouped(
    left: torch.Tensor, right: torch.Tensor, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same Kronecker product with a second factor of `columns`, where that divides right's.

    Sylvester's matrices are products themselves: H_ab = H_a (x) H_b.
    """
    if right.shape[0] <= columns:
        return left, right
    return torch.kron(left, right[::columns, ::columns]), right[:columns, :columns]
