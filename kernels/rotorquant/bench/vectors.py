"""Synthetic keys, values and queries of one global layer, with known difficulties.

Layer: V of D values per token, K = RoPE(w V) with w = 1 and Gemma's proportional rotary embedding
(a quarter of the pairs turns, theta 1e6); one KV head, positions 0 to N - 1, queries at N.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rotorquant.calibration.statistics import StreamStatistics, tied_weight

__all__ = ["KINDS", "Sample", "draw_sample", "rotate"]

KINDS = {
    "unit": "random unit vectors; no rotation can be told from another here, nor from none",
    "outliers": "8 channels 20 times as large as the others",
    "offset": "a mean per channel, 4 times the spread",
    "inverse": "channel scales lognormal(1), query scales their inverse",
    "mixed": "channel scales lognormal(0.7), a mean of twice the spread, independent query scales",
}
_THETA = 1e6


@dataclass(frozen=True, slots=True)
class Sample:
    """Tensors of one layer, float32.

    Attributes:
        values: [N, D]; queries: [Q, D], before their rotary embedding.
        mean: [D], the true mean; scale: [D], the true standard deviation of the channels.
        query_scale: [D], of the queries' channels.
        pairs: rotary pairs that turn.
    """

    values: torch.Tensor
    queries: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor
    query_scale: torch.Tensor
    pairs: int

    def statistics(self) -> tuple[StreamStatistics, ...]:
        """What a calibration on endless text of this kind would tell of the latent.

        Attention is taken to be spread out: |v - output|^2 is the sum of the variances.
        """
        covariance, energy = (s.square().diag()[None] for s in (self.scale, self.query_scale))
        norm = torch.ones_like(self.mean)
        weight = tied_weight(energy * self.scale.square().sum(), norm, self.pairs)
        return (StreamStatistics(self.mean[None], covariance, weight),)


def draw_sample(kind: str, tokens: int, queries: int, head_dim: int, logit_std: float) -> Sample:
    """One of `KINDS`; the scores of the queries have the standard deviation `logit_std`."""
    draw = torch.Generator().manual_seed(list(KINDS).index(kind))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    scale, query_scale = torch.ones(head_dim), torch.ones(head_dim)
    mean = torch.zeros(head_dim)
    if kind == "outliers":
        scale[torch.randperm(head_dim, generator=draw)[:8]] = 20.0
    elif kind == "offset":
        mean = 4.0 * normal(head_dim)
    elif kind == "inverse":
        scale = normal(head_dim).exp()
        query_scale = 1 / scale
    elif kind == "mixed":
        scale, query_scale = (0.7 * normal(head_dim)).exp(), (0.7 * normal(head_dim)).exp()
        mean = 2.0 * scale * normal(head_dim)
    values = mean + scale * normal(tokens, head_dim)
    if kind == "unit":
        values /= torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        # The spread of a coordinate of unit vectors.
        scale = scale / head_dim**0.5
    # A score is a sum of independent products, whose variances add up.
    pull = logit_std / (scale * query_scale).square().sum().sqrt()
    query_scale = query_scale * pull
    drawn = query_scale * normal(queries, head_dim)
    return Sample(values, drawn, mean, scale, query_scale, head_dim // 8)


def rotate(vectors: torch.Tensor, positions: torch.Tensor, pairs: int) -> torch.Tensor:
    """The rotary embedding of vectors [..., N, D] at positions [N]."""
    half = vectors.shape[-1] // 2
    steps = torch.arange(pairs, dtype=torch.float64)
    angles = positions.double()[:, None] * _THETA ** (-2.0 * steps / (2 * half))
    cos, sin = angles.cos().float(), angles.sin().float()
    turned = vectors.clone()
    one, two = vectors[..., :pairs], vectors[..., half : half + pairs]
    turned[..., :pairs] = one * cos - two * sin
    turned[..., half : half + pairs] = two * cos + one * sin
    return turned
