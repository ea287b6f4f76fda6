"""Layers in which K is a function of V and the position, K = RoPE(w V): V alone is stored.

Gemma 4's `attention_k_eq_v`: with r = u / rms(u), V = r and K = RoPE(w r), where w is the weight of
`k_norm` (`models/gemma4/modeling_gemma4.py` of transformers 5.17 to 5.23).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["TiedKey"]


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
