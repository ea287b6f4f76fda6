"""Tensors as kernels read them: at any strides, but with the values of a row side by side."""

from __future__ import annotations

import torch

__all__ = ["dense", "four_dims"]


def dense(rows: torch.Tensor) -> torch.Tensor:
    """Rows [..., D] whose values lie side by side: the same tensor where they do, else a copy."""
    # A single value has any stride that torch likes.
    return rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()


def four_dims(rows: torch.Tensor) -> torch.Tensor:
    """Rows [..., D] as [B, H, N, D], dense."""
    rows = dense(rows)
    if rows.ndim > 4:
        rows = rows.reshape(-1, *rows.shape[-3:])
    return rows[(None,) * (4 - rows.ndim)]
