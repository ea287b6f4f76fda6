"""Modules that keep their weights packed: a linear layer, an embedding, and the head tied to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rqchat.engine.weights.grid import Grid, Packed
from rqchat.engine.weights.multiply import multiply

__all__ = ["PackedEmbedding", "PackedLinear", "UnscaledRows"]


class _PackedModule(nn.Module):
    """Holds a packed matrix in buffers, which `Module.to` moves and `state_dict` names."""

    words: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor | None

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.grid: Grid = packed.grid
        self.register_buffer("words", packed.words)
        self.register_buffer("scale", packed.scale)
        self.register_buffer("offset", packed.offset)

    @property
    def packed(self) -> Packed:
        """The matrix."""
        return Packed(self.grid, self.words, self.scale, self.offset)


class PackedLinear(_PackedModule):
    """`nn.Linear` over a packed matrix.

    Attributes:
        in_features, out_features: as `nn.Linear` has them.
        bias: [out_features], or None.
    """

    bias: torch.Tensor | None

    def __init__(self, packed: Packed, bias: torch.Tensor | None = None) -> None:
        super().__init__(packed)
        self.in_features, self.out_features = packed.columns, packed.words.shape[0]
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_features] to [..., out_features], in x's dtype."""
        out = multiply(x, self.packed)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """What printing a model shows."""
        return f"{self.in_features}, {self.out_features}, bits={self.grid.bits}"


class PackedEmbedding(_PackedModule):
    """Gemma's scaled embedding over a packed table [vocabulary, hidden].

    Attributes:
        embed_scale: the factor of what comes out.
    """

    embed_scale: torch.Tensor

    def __init__(self, packed: Packed, embed_scale: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__(packed)
        self.num_embeddings, self.embedding_dim = packed.words.shape[0], packed.columns
        self.register_buffer("embed_scale", embed_scale, persistent=False)
        self._dtype = dtype

    @property
    def weight(self) -> UnscaledRows:
        """The table, as far as transformers reads it by itself: the padding token's row."""
        return UnscaledRows(self.packed, self._dtype)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Rows [..., hidden] of the table for token ids [...]."""
        rows = self.packed.rows(token_ids.flatten()).dequantize(self._dtype)
        return rows.view(*token_ids.shape, -1) * self.embed_scale.to(self._dtype)


@dataclass(frozen=True, slots=True)
class UnscaledRows:
    """A packed table that is unpacked row by row, as it is indexed; `dtype` is what comes out."""

    packed: Packed
    dtype: torch.dtype

    def __getitem__(self, index: tuple[int, slice]) -> torch.Tensor:
        """Some columns of one row."""
        row, columns = index
        return self.packed.rows(slice(row, row + 1)).dequantize(self.dtype)[0, columns]
