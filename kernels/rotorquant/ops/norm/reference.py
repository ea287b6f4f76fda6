"""Specification of the norm ops: x / sqrt(mean(x^2) + eps) * w in float32, then rounded.

As Gemma 4 has it (`models/gemma4/modeling_gemma4.py` of transformers): w as it is, not 1 + w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Norm", "norm", "norm_add"]


class Norm(NamedTuple):
    """An RMS norm, and the order of its results.

    weight: [D] of any dtype, or None for ones.
    eps: added to the mean square.
    fields: F, where a product with packed weights, F to a word, reads the result: value w F + f
        lies at f (D / F) + w, so that values that meet the same field are next to each other.
    """

    weight: torch.Tensor | None
    eps: float
    fields: int = 1


def norm(rows: torch.Tensor, by: Norm) -> torch.Tensor:
    """x / rms(x) * weight of rows [..., D], rounded once, in field order where that is asked."""
    wide = rows.float()
    normed = wide * (wide.square().mean(-1, keepdim=True) + by.eps).rsqrt()
    normed = (normed if by.weight is None else normed * by.weight.float()).to(rows.dtype)
    return normed if by.fields == 1 else normed.unflatten(-1, (-1, by.fields)).mT.flatten(-2)


def norm_add(
    rows: torch.Tensor,
    by: Norm,
    residual: torch.Tensor,
    factor: torch.Tensor | None,
    then: Norm | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sum (residual + norm(rows)) * factor, and the norm of that sum by `then`."""
    total = residual + norm(rows, by)
    if factor is not None:
        total *= factor
    return total, None if then is None else norm(total, then)
