"""Products of packed linear layers that share their input, in one launch for a decode step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from rotorquant.fused_layers import PlainProducts
from rqchat.engine.weights.grid import Packed
from rqchat.engine.weights.kernels.launch import GEMV_ROWS
from rqchat.engine.weights.kernels.multiply import has_kernel, multiply_gated, multiply_joined
from rqchat.engine.weights.modules import PackedLinear

__all__ = ["JoinedProducts"]

_MATRICES_LIMIT = 3  # of one launch: Q, K and V


class JoinedProducts(PlainProducts):
    """`fuse_layers` multiplies by these: a few rows with packed weights of one grid.

    All other products are those of the layers themselves. No weight is copied: one launch reads
    the matrices where they lie.
    """

    def fields(self, rows: int, linears: Sequence[nn.Module]) -> int:
        """The field order in which these layers read so many rows; 1 where they take them plain."""
        packed = [_packed_of(linear) for linear in linears]
        grids = {None if each is None else (each.grid, each.words.shape[1]) for each in packed}
        served = 0 < rows <= GEMV_ROWS and len(linears) <= _MATRICES_LIMIT
        known = packed[0] if served and len(grids) == 1 and has_kernel() else None
        return 1 if known is None else int(known.grid.fields)

    def joined(self, states: torch.Tensor, linears: Sequence[nn.Module]) -> Sequence[torch.Tensor]:
        """Every layer's product with states [..., columns] in the order of `fields`."""
        if self.fields(_rows_of(states), linears) == 1:
            return super().joined(states, linears)
        return multiply_joined(states, [cast("PackedLinear", each).packed for each in linears])

    def gated(
        self, states: torch.Tensor, gate: nn.Module, up: nn.Module, then: nn.Module
    ) -> torch.Tensor:
        """gelu(gate) * up, in the order in which `then` reads it."""
        rows = _rows_of(states)
        fields = self.fields(rows, [then])
        if self.fields(rows, [gate, up]) == 1:
            plain = super().gated(states, gate, up, then)
            return plain if fields == 1 else plain.unflatten(-1, (-1, fields)).mT.flatten(-2)
        opened, raised = (cast("PackedLinear", each).packed for each in (gate, up))
        return multiply_gated(states, opened, raised, fields)


def _rows_of(states: torch.Tensor) -> int:
    return states.numel() // states.shape[-1]


def _packed_of(linear: nn.Module) -> Packed | None:
    """The matrix of a layer that is its product and nothing else."""
    plain = isinstance(linear, PackedLinear) and linear.bias is None
    # Whoever listens to a layer's calls needs them to happen.
    if not plain or linear._forward_hooks or linear._forward_pre_hooks:
        return None
    packed = linear.packed
    return packed if isinstance(packed, Packed) else None
