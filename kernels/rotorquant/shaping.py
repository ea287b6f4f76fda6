"""Codes that make up for each other's errors, where errors matter jointly.

With the weight W = F^T D F, F unit upper triangular in blocks, an error e costs

    e^T W e = sum over blocks b of  f_b^T D_b f_b,    f_b = e_b + sum over later blocks of F_bc e_c.

So blocks are rounded from the last to the first, each after what the later ones have left of it
was added: f_b is then no larger than a plain rounding error. (Adaptive rounding by LDL factors is
known from the quantization of weights: QuIP, arXiv 2307.13304.) Nothing is stored for it and
nothing changes for the reader. Within a block values are rounded apart; blocks of 32 keep nine
tenths of what blocks of one bring, in a thirty-second of the steps. The codes are chosen by
`ops/encode`.
"""

from __future__ import annotations

import torch

from rotorquant.ops.encode import BLOCK

__all__ = ["feedback_of"]


def feedback_of(weight: torch.Tensor) -> torch.Tensor:
    """F of weights [H, D, D], zero on and below the blocks of its diagonal."""
    rest, feedback = weight.clone(), torch.zeros_like(weight)
    for low in range(0, weight.shape[-1], BLOCK):
        high = low + BLOCK
        row = torch.linalg.solve(rest[:, low:high, low:high], rest[:, low:high, high:])
        feedback[:, low:high, high:] = row
        rest[:, high:, high:] -= rest[:, high:, low:high] @ row
    return feedback
