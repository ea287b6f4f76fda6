"""Specification of the heads op: RMS norm of a head, then its rotary embedding.

With pairs (i, i + D/2),

n = x / sqrt(mean(x^2) + eps) * w        (c1 n1 - s1 n2, c2 n2 + s2 n1)

with n, both products and their sum each rounded to the dtype, as the model rounds them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from rotorquant.ops.norm import reference
from rotorquant.ops.norm.reference import Norm

__all__ = ["Stream", "norm_heads"]


class Stream(NamedTuple):
    """Queries, keys or values of a layer.

    rows: [B, T, heads, D] as the projection leaves them.
    weight: [D] of the norm, or None for ones.
    turned: whether they get a rotary embedding.
    wide: whether the result is float32, of values that are rounded to the dtype all the same.
    """

    rows: torch.Tensor
    weight: torch.Tensor | None
    turned: bool
    wide: bool = False


def norm_heads(stream: Stream, cos: torch.Tensor, sin: torch.Tensor, eps: float) -> torch.Tensor:
    """One stream [B, T, heads, D], normed, and turned where it asks for it."""
    normed = reference.norm(stream.rows, Norm(stream.weight, eps))
    if stream.turned:
        one, two = normed.chunk(2, dim=-1)
        crossed = torch.cat((-two, one), dim=-1)
        normed = normed * cos.unsqueeze(2) + crossed * sin.unsqueeze(2)
    return normed.float() if stream.wide else normed
