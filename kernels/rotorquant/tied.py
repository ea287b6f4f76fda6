"""Layers in which K is a function of V and the position, K = RoPE(w V): V alone is stored.

Gemma 4's `attention_k_eq_v`: with r = u / rms(u), V = r and K = RoPE(w r), where w is the weight of
`k_norm` (`models/gemma4/modeling_gemma4.py` of transformers 5.17 to 5.23).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rotorquant.codec import Codec
from rotorquant.ops.attend import Rope

__all__ = ["TiedKey"]

_STEP_ROWS = 512  # 16 steps of 16 heads, both forms: one product; of more, one form at a time


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
        keys = (values.float() * self.weight(values.device)).to(dtype)
        angles = positions[:, None, :, None].float() * self.frequencies(values.device)
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        one, two = keys[..., : self.pairs], keys[..., half : half + self.pairs]
        turned = one * cos - two * sin, two * cos + one * sin
        keys[..., : self.pairs], keys[..., half : half + self.pairs] = turned
        return keys

    def crossed(self, query: torch.Tensor) -> torch.Tensor:
        """What meets V in the place of K, [B, H, 2 R, D]: factors of cosine, then those of sine.

        `query`: [B, H, R, D] float32, with its own rotary embedding.
        """
        half = query.shape[-1] // 2
        swapped = torch.cat((query[..., half:], -query[..., :half]), dim=-1)
        return torch.cat((query, swapped), dim=2).mul_(self.weight(query.device))

    def stored_query(
        self, crossed: torch.Tensor, codec: Codec, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, Rope, torch.Tensor | None]:
        """What scores queries against stored rows of V (`ops/attend/reference.py`).

        Args:
            crossed: [B, H, 2 R, D] of `crossed`.
            codec: of the rows.
            positions: [B, N] integers, of the rows.
            dtype: to which the model rounds cosine and sine.

        Returns:
            The query for the dimensions without a position, zero on the others; their part; and
            what the offset of the codec adds to all scores of a query, [B, H, R, 1], or None.
        """
        half, (straight, swapped) = crossed.shape[-1] // 2, crossed.chunk(2, dim=2)
        bias, shift = self._offset_scores(straight, swapped, codec.offset)
        if crossed.shape[2] <= _STEP_ROWS:
            straight, swapped = codec.to_stored(crossed).chunk(2, dim=2)
        else:
            straight, swapped = codec.to_stored(straight), codec.to_stored(swapped)
        first, second = codec.place[: self.pairs], codec.place[half : half + self.pairs]
        turned = torch.cat((first, second))
        both = straight.index_select(-1, turned), swapped.index_select(-1, turned)
        rope = Rope(
            torch.cat(both, dim=-1),
            first,
            second,
            positions,
            self.frequencies(crossed.device),
            dtype,
            bias,
        )
        return straight.index_fill(-1, turned, 0.0), rope, shift

    def _offset_scores(
        self, straight: torch.Tensor, crossed: torch.Tensor, offset: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Scores of the offset m: factors of cosine and sine [B, H, R, 2 pairs], and the constant.

        K = RoPE(w (x + m)), so m enters like a stored vector that is the same for all keys.
        """
        if offset is None:
            return None, None
        half = offset.shape[-1] // 2
        one, two = straight * offset, crossed * offset
        cos, sin = (part[..., :half] + part[..., half:] for part in (one, two))
        bias = torch.cat((cos[..., : self.pairs], sin[..., : self.pairs]), dim=-1)
        return bias, cos[..., self.pairs :].sum(-1, keepdim=True)
