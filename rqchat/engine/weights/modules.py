"""Modules that keep their weights packed: linear layer, experts, embedding, and the head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import nn

from rqchat.engine.weights.cpu_linear4 import CpuLinear4
from rqchat.engine.weights.cpu_matrix import CpuInt4, CpuInt4Experts, CpuInt8, CpuLinear8
from rqchat.engine.weights.grid import INT2, INT3, INT4, INT8_ROWS, Grid, Packed
from rqchat.engine.weights.kernels.multiply import multiply, multiply_experts

__all__ = [
    "DTYPES",
    "GRIDS",
    "PackedEmbedding",
    "PackedExperts",
    "PackedLinear",
    "PackedMatrix",
    "UnscaledRows",
]

GRIDS: dict[str, Grid] = {"int8": INT8_ROWS, "int4": INT4, "int3": INT3, "int2": INT2}
"""Rungs of packed matrices; bitsandbytes makes the layers of all others that have codes."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Rungs without codes."""


class PackedMatrix(nn.Module):
    """Holds a packed matrix, its tensors also as buffers, which `state_dict` names.

    Attributes:
        packed: the matrix.
    """

    def __init__(
        self, packed: Packed | CpuInt4 | CpuInt4Experts | CpuInt8 | CpuLinear4 | CpuLinear8
    ) -> None:
        super().__init__()
        self.packed: Any = packed  # each product knows its own form
        for field in fields(packed):
            value = getattr(packed, field.name)
            if value is None or isinstance(value, torch.Tensor):
                self.register_buffer(field.name, value)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        names = [field.name for field in fields(self.packed) if field.name in self._buffers]
        self.packed = replace(self.packed, **{name: self._buffers[name] for name in names})
        return self


class PackedLinear(PackedMatrix):
    """`nn.Linear` over a packed matrix.

    Attributes:
        in_features, out_features: as `nn.Linear` has them.
        bias: [out_features], or None.
    """

    bias: torch.Tensor | None

    def __init__(
        self,
        packed: Packed | CpuInt4 | CpuInt8 | CpuLinear4 | CpuLinear8,
        bias: torch.Tensor | None = None,
    ) -> None:
        super().__init__(packed)
        self.out_features, self.in_features = packed.shape
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features], in x's dtype."""
        out = multiply(x, self.packed)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """The sizes and bits that printing a model shows."""
        return f"{self.in_features}, {self.out_features}, {type(self.packed).__name__}"


class PackedExperts(nn.Module):
    """`Gemma4TextExperts` over packed matrices; the loader sets `gate_up_proj` and `down_proj`.

    Attributes:
        num_experts: how many there are.
        gate_up_proj, down_proj: their matrices, one below the other: [experts * 2 * inner, hidden],
            an expert's gate above its up, and [experts * hidden, inner].
    """

    gate_up_proj: PackedMatrix
    down_proj: PackedMatrix

    def __init__(self, num_experts: int, act_fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.num_experts, self._act = num_experts, act_fn

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Sums [tokens, hidden] over the experts [tokens, k] of each token by their weights."""
        chosen = top_k_index.flatten()
        gate_up, down = self.gate_up_proj.packed, self.down_proj.packed
        inner = self._gated(multiply_experts(hidden_states, gate_up, self.num_experts, chosen))
        outputs = multiply_experts(inner, down, self.num_experts, chosen)
        return outputs.view(*top_k_index.shape, -1).mul_(top_k_weights.unsqueeze(-1)).sum(1)

    def _gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return self._act(gate).mul_(up)


class PackedEmbedding(PackedMatrix):
    """Gemma's scaled embedding over a packed table [vocabulary, hidden].

    Attributes:
        embed_scale: the factor of what comes out.
    """

    embed_scale: torch.Tensor

    def __init__(
        self, packed: Packed | CpuInt8, embed_scale: torch.Tensor, dtype: torch.dtype
    ) -> None:
        super().__init__(packed)
        self.num_embeddings, self.embedding_dim = packed.shape
        # Not persistent, as in transformers: no checkpoint holds it
        self.register_buffer("embed_scale", embed_scale, persistent=False)
        self._dtype = dtype

    @property
    def weight(self) -> UnscaledRows:
        """The table, as far as transformers reads it by itself: the padding token's row."""
        return UnscaledRows(self.packed, self._dtype)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Rows [..., hidden] of the table for token ids [...]."""
        rows: torch.Tensor = self.packed.rows(token_ids.flatten()).dequantize(self._dtype)
        return rows.view(*token_ids.shape, -1) * self.embed_scale.to(self._dtype)


@dataclass(frozen=True, slots=True)
class UnscaledRows:
    """A packed table that is unpacked row by row, as it is indexed; `dtype` is what comes out."""

    packed: Packed | CpuInt8
    dtype: torch.dtype

    def __getitem__(self, index: tuple[int, slice]) -> torch.Tensor:
        """Some columns of one row, unpacked."""
        row, columns = index
        return self.packed.rows(slice(row, row + 1)).dequantize(self.dtype)[0, columns]
