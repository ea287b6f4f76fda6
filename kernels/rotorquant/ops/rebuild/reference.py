"""Specification of the rebuild op, in float32.

A value is scale times what its byte stands for. A key is the value, but at the places of rotary
pair i, where with the stored pair z = (z1, z2), a matrix M_i, an offset o_i and the key's angle

    u = M_i z + o_i        (c u1 - s u2, c u2 + s u1),    c = cos, s = sin.

M undoes the rotation of the rows and holds the weights of the norm: the result is the model's own
key there. The other places enter the score as they lie, with the query brought into their space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from rotorquant.ops.attend import Rows
from rotorquant.ops.dequantize import lookup

__all__ = ["Twist", "rebuild"]


class Twist(NamedTuple):
    """How the keys of a tied layer follow from its rows.

    first, second: [r] places of dimensions i and i + D/2 in a row, i < r.
    still: [D] bool, the places that are in no pair.
    matrix: [H, 4, r] float32, M's members 11, 12, 21 and 22.
    offset: [H, 2, r] float32.
    cos, sin: [B, N, r] floats of the keys' angles.
    """

    first: torch.Tensor
    second: torch.Tensor
    still: torch.Tensor
    matrix: torch.Tensor
    offset: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor


def rebuild(
    rows: Rows, table: torch.Tensor, twist: Twist | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [B, H, N, D] of packed rows; without a twist both are the same tensor."""
    assert rows.scale is not None
    values = lookup(rows.primary, rows.extra, table) * rows.scale.float().unsqueeze(-1)
    if twist is None:
        return (values.to(dtype),) * 2
    one, two = values[..., twist.first], values[..., twist.second]
    matrix, offset = twist.matrix.unsqueeze(2).unbind(1), twist.offset.unsqueeze(2).unbind(1)
    first = matrix[0] * one + matrix[1] * two + offset[0]
    second = matrix[2] * one + matrix[3] * two + offset[1]
    cos, sin = twist.cos.float().unsqueeze(1), twist.sin.float().unsqueeze(1)
    keys = values.clone()
    keys[..., twist.first] = cos * first - sin * second
    keys[..., twist.second] = cos * second + sin * first
    return keys.to(dtype), values.to(dtype)
