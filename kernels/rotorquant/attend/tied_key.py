"""Layers in which K is a function of V and the position, K = RoPE(w V): V alone is stored.

Gemma 4's `attention_k_eq_v`: with r = u / rms(u), V = r and K = RoPE(w r), where w is the weight of
`k_norm` (`models/gemma4/modeling_gemma4.py` of transformers 5.17 to 5.23).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rotorquant.codec.codec import Codec
from rotorquant.ops.attend import Rope
from rotorquant.ops.decode import RowQueries

__all__ = ["TiedKey", "TiedQueries"]


@dataclass(frozen=True, slots=True, eq=False)
class TiedKey:
    """How K follows from V in a layer with K = RoPE(w V): Gemma 4's `attention_k_eq_v`.

    Attributes:
        norm: the layer's `k_norm`, whose weight [D] is w.
        rotary: the model's rotary embedding.
        buffer: name of the rotary's buffer of inverse frequencies, [D / 2].
        pairs: how many of the pairs (i, i + D/2) turn at all: the first `pairs`.
    """

    norm: nn.Module
    rotary: nn.Module
    buffer: str
    pairs: int

    def weight(self, device: torch.device) -> torch.Tensor:
        """w, [D] float32."""
        weight = self.norm.weight
        assert isinstance(weight, torch.Tensor)
        return weight.detach().to(device=device, dtype=torch.float32)

    def frequencies(self, device: torch.device) -> torch.Tensor:
        """[pairs] float32, radians per position."""
        turns = getattr(self.rotary, self.buffer)
        assert isinstance(turns, torch.Tensor)
        return turns[: self.pairs].to(device=device, dtype=torch.float32)

    def rebuild(self, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """K [B, H, N, D] of V [B, H, N, D], rounded where the model rounds.

        Args:
            values: V in the model's dtype.
            positions: [B, N] integers.
        """
        dtype, half = values.dtype, values.shape[-1] // 2
        keys = (values * self.weight(values.device)).to(dtype)  # in float32
        angles = positions[:, None, :, None].float() * self.frequencies(values.device)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        one, two = keys[..., : self.pairs], keys[..., half : half + self.pairs]
        turned = one * cos - two * sin, two * cos + one * sin
        keys[..., : self.pairs], keys[..., half : half + self.pairs] = turned
        return keys


class TiedQueries:
    """Prepares the queries of a layer that stores V alone.

    Args:
        tie: how K follows from V.
        codec: of the packed rows of V; `packed` is right only where it keeps the pairs that turn
            (`packed_rows.in_place`).
        device: where the rows lie.
    """

    def __init__(self, tie: TiedKey, codec: Codec, device: torch.device) -> None:
        weight = tie.weight(device)
        first = torch.arange(tie.pairs, device=device)
        second = first + weight.shape[0] // 2
        both = torch.cat((first, second))
        self.tie, self._codec = tie, codec
        self._frequencies = tie.frequencies(device)
        self._natural, self._stored = (first, second), (codec.place[first], codec.place[second])
        # Where nothing turns, w goes to the query; pairs that turn have factors of their own.
        self._still = weight.index_fill(0, both, 0.0)
        # [4 pairs]: dimensions that give the factors of cosine, then those of sine
        self._source = torch.cat((both, second, first))
        self._factor = torch.cat((weight[both], weight[first], -weight[second]))
        self._both, self._basis = both, torch.eye(weight.shape[0], device=device)[both]
        self._turn, self._left_out = self._of_pairs()

    def refresh(self) -> None:
        """Follow the codec, which has taken another frame, in the same tensors."""
        turn, left_out = self._of_pairs()
        self._turn.copy_(turn)
        if left_out is not None and self._left_out is not None:
            self._left_out.copy_(left_out)

    def _of_pairs(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """T^-T on pairs, [2 pairs, 2 pairs] or of every head, and the offset there."""
        codec, both = self._codec, self._both
        turn = codec.to_stored(self._basis).index_select(-1, codec.place[both])
        return turn, None if codec.offset is None else codec.offset.index_select(-1, both)

    def exact(self, query: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> RowQueries:
        """Queries for rows that are V itself.

        Args:
            query: [B, H, R, D] float32, scaled, with its own rotary embedding.
            positions: [B, N] integers, of the rows.
            dtype: to which the model rounds cosine and sine.
        """
        turned = query.index_select(-1, self._source) * self._factor
        rope = Rope(turned, *self._natural, positions, self._frequencies, dtype)
        return RowQueries(query * self._still, rope)

    def packed(self, exact: RowQueries) -> RowQueries:
        """The same queries for packed rows."""
        if self._codec.table is None or exact.rope is None:
            return exact
        # [B, H, 2 R, 2 pairs]: the factors of cosine, then those of sine, are rows of their own
        forms = exact.rope.query.unflatten(-1, (2, -1)).flatten(2, 3)
        bias = shift = None
        if self._left_out is not None and self._codec.offset is not None:
            scores = (forms * self._left_out).unflatten(-1, (2, -1)).sum(-2)
            bias = scores.unflatten(2, (-1, 2)).flatten(-2)
            shift = exact.query @ self._codec.offset.mT
        turned = (forms @ self._turn).view_as(exact.rope.query)
        first, second = self._stored
        rope = exact.rope._replace(query=turned, first=first, second=second, bias=bias)
        return RowQueries(self._codec.to_stored(exact.query), rope, shift)
