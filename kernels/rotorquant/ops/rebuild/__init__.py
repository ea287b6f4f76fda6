"""Packed rows as the plain keys and values that a long chunk attends to.

Decoding costs as much for one query as for thousands, so before many queries read a piece of
history it is decoded once; `ops/attend` decodes tiles anew for every program.
"""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.attend import Rows
from rotorquant.ops.launches import HEAD_DIMS
from rotorquant.ops.rebuild import reference
from rotorquant.ops.rebuild.reference import Twist

__all__ = ["Twist", "rebuild"]

_kernel = dispatch.find_kernel(__name__)


@dispatch.on_one_device
def rebuild(
    rows: Rows, table: torch.Tensor, twist: Twist | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [B, H, N, D] in storage order; without a twist both are one tensor.

    Args:
        rows: packed, with a scale.
        table: from `ops.dequantize.decode_table`.
        twist: how keys follow from values, or None where rows are one of the two.
        dtype: of the result.
    """
    if rows.scale is None:
        raise ValueError("plain rows need no rebuilding")
    head_dim = rows.primary.shape[-1] * table.shape[-1]
    if twist is not None and len(twist.still) != head_dim:
        raise ValueError(f"a twist of {len(twist.still)} places does not fit {head_dim}")
    if _kernel is not None and dispatch.on_gpu(rows.primary) and head_dim in HEAD_DIMS:
        rebuilt: tuple[torch.Tensor, torch.Tensor] = _kernel.rebuild(rows, table, twist, dtype)
        return rebuilt
    return reference.rebuild(rows, table, twist, dtype)
