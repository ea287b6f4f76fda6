"""RMS norms of whole rows, with what comes next in a decoder layer: one launch where torch has ten.

Every step is rounded to the dtype of the rows, as it is where the steps are apart.
"""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.norm import reference
from rotorquant.ops.norm.reference import Norm

__all__ = ["COLUMNS_LIMIT", "Norm", "norm", "norm_add"]

COLUMNS_LIMIT = 16384  # a program holds a row in registers

_kernel = dispatch.find_kernel(__name__)


@dispatch.on_one_device
def norm(rows: torch.Tensor, by: Norm) -> torch.Tensor:
    """x / rms(x) * weight of rows [..., D], in their dtype."""
    if _serves(rows) and _kernel is not None:
        normed: torch.Tensor = _kernel.norm(rows, by)
        return normed
    return reference.norm(rows, by)


@dispatch.on_one_device
def norm_add(
    rows: torch.Tensor,
    by: Norm,
    residual: torch.Tensor,
    factor: torch.Tensor | None = None,
    then: Norm | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sum (residual + norm(rows)) * factor, and the norm of that sum by `then`.

    Args:
        rows, residual: [..., D] of one dtype.
        by: norm of the rows.
        factor: [1], or None for 1.
        then: norm of the sum, or None.
    """
    if rows.shape != residual.shape or rows.dtype != residual.dtype:
        raise ValueError(
            f"rows {tuple(rows.shape)} of {rows.dtype} cannot be added to a residual "
            f"{tuple(residual.shape)} of {residual.dtype}"
        )
    if _serves(rows) and _kernel is not None:
        both: tuple[torch.Tensor, torch.Tensor | None] = _kernel.norm_add(
            rows, by, residual, factor, then
        )
        return both
    return reference.norm_add(rows, by, residual, factor, then)


def _serves(rows: torch.Tensor) -> bool:
    return dispatch.on_gpu(rows) and 0 < rows.shape[-1] <= COLUMNS_LIMIT and rows.numel() > 0
