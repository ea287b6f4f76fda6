"""What is known of the keys and values of a layer, and the frame that follows from it.

With m and v the mean and variance of channel i, and w how much a squared error in it matters, the
frame subtracts m and multiplies by

    s = (w / v)^(1/4)      where all channels are mixed afterwards: the least sum of w times error
                           among all balances (Cauchy-Schwarz: the mean of w v becomes the square
                           of the mean of sqrt(w v)), scaled so that the mean of s^2 v is 1
    s = v^(-1/2)           on the rotary pairs, which are not mixed with others: each channel then
                           has the variance for which the codebook was made.

A constant offset costs nothing: it adds one number to all scores of a query, or its own score to
rotary pairs, and itself to the output, as the weights of a softmax sum to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from rotorquant.codec import Frame

__all__ = ["StreamStatistics", "make_frame", "offset_alone", "output_pulls", "tied_weight"]

_LEAST = 1e-3  # of the mean: a channel that hardly moves must not swallow the scale


class StreamStatistics(NamedTuple):
    """Per KV head and channel, [H, D] float32 each."""

    mean: torch.Tensor
    variance: torch.Tensor
    weight: torch.Tensor


def make_frame(statistics: StreamStatistics, pairs: int) -> Frame:
    """Offset and balance; `pairs` rotary pairs (i, i + D/2), from the first on, stay unmixed."""
    variance = statistics.variance
    variance = variance.clamp_min(1e-30).maximum(_LEAST * variance.mean(-1, keepdim=True))
    weight = statistics.weight.clamp_min(1e-30)
    balance = (weight / variance) ** 0.25
    half = variance.shape[-1] // 2
    mixed = torch.arange(variance.shape[-1], device=variance.device) % half >= pairs
    if bool(mixed.any()):
        spread = (balance.square() * variance)[:, mixed].mean(-1, keepdim=True)
        balance = balance / spread.sqrt()
    balance = torch.where(mixed, balance, variance.rsqrt())
    return Frame(statistics.mean.unsqueeze(1), balance.unsqueeze(1))


def offset_alone(statistics: StreamStatistics) -> StreamStatistics:
    """The same mean, with channels of one variance and weight."""
    ones = torch.ones_like(statistics.mean)
    return StreamStatistics(statistics.mean, ones, ones)


def tied_weight(pull: torch.Tensor, norm: torch.Tensor, pairs: int) -> torch.Tensor:
    """How much an error in the latent V matters, [H, D].

    An error e in the value of a token with the attention p moves the output by p e. As a part of
    the key it moves the score by q w e and the output by p (q w e) (v - output). Summed over tokens
    and divided by the sum of p^2, the squares have the factors 1 and w^2 times `pull`.

    Args:
        pull: [H, D], sum of p^2 |v - output|^2 q^2 over that of p^2, q scaled.
        norm: [D], w, the weight of `k_norm`.
        pairs: rotary pairs; their members are averaged, as the distance of two tokens turns one
            into the other.
    """
    half = pull.shape[-1] // 2
    mean = (pull[:, :half] + pull[:, half:]) / 2
    turned = torch.arange(2 * half, device=norm.device) % half < pairs
    return torch.where(turned, mean.repeat(1, 2), pull) * norm.square() + 1.0


def output_pulls(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, asked: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over queries and keys of p^2 |v - o|^2 q^2, [H, D], and of p^2, [H, 1].

    Args:
        query: [heads, T, D], scaled; key, value: [H, T, D].
        asked: indices of the queries that are looked at.
    """
    chosen = query[:, asked].unflatten(0, (key.shape[0], -1))
    scores = chosen @ key.unsqueeze(1).mT
    later = torch.arange(key.shape[1], device=key.device) > asked[:, None]
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    output, squares = weights @ value.unsqueeze(1), weights.square()
    # |v - o|^2 = v v - 2 v o + o o, without a tensor of [queries, keys, D].
    apart = (
        (squares * value.square().sum(-1)[:, None, None]).sum(-1)
        - 2 * ((squares @ value.unsqueeze(1)) * output).sum(-1)
        + squares.sum(-1) * output.square().sum(-1)
    )
    pull = (apart.clamp_min(0).unsqueeze(-1) * chosen.square()).sum((1, 2))
    return pull, squares.sum((1, 2, 3)).unsqueeze(-1)
