"""What is known of the keys and values of a layer, and the frame that follows from it.

With m the mean and C the covariance of a group of dimensions, and e^T W e how much an error e in
them matters, the group is stored as

    z = T (x - m),    T = H diag(a)^(1/4) U^T L^-1,    C = L L^T,    L^T W L = U diag(a) U^T

with H a Hadamard matrix. Codes put errors of one size d on every z, which costs d tr(T C T^T) / n
times tr(T^-T W T^-1). T^T T =: M is best where M C M = W (the derivative of tr(M C) tr(M^-1 W) is
zero there), and this T has that M. In its space covariance and weight are the same matrix, H
diag(a)^(1/2) H^T up to a factor, so all z have one variance, which H needs no luck for.

Groups are the rotary pairs (i, i + D/2), which must not be mixed with others, and all other
dimensions together. Each group gets a mean variance of 1: the one the codebook was made for.

A constant offset costs nothing: it adds one number to all scores of a query, or its own score to
rotary pairs, and itself to the output, as the weights of a softmax sum to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from rotorquant.codec.codec import Frame
from rotorquant.codec.rotation import mixing_matrix
from rotorquant.ops.encode import BLOCK

__all__ = [
    "StreamStatistics",
    "feedback_of",
    "make_frame",
    "offset_alone",
    "output_pulls",
    "tied_weight",
]


def feedback_of(weight: torch.Tensor) -> torch.Tensor:
    """F of weights [H, D, D], zero on and below the blocks of its diagonal."""
    rest, feedback = weight.clone(), torch.zeros_like(weight)
    for low in range(0, weight.shape[-1], BLOCK):
        high = low + BLOCK
        # For given errors e_l of later blocks -W_bb^-1 W_bl e_l is the best e_b, and what they cost
        # then is the Schur complement, which is `rest` for the blocks that follow.
        row, _ = torch.linalg.solve_ex(rest[:, low:high, low:high], rest[:, low:high, high:])
        feedback[:, low:high, high:] = row
        rest[:, high:, high:] -= rest[:, high:, low:high] @ row
    return feedback


# Of the mean on the diagonal: what hardly moved in the text that was read may move in another.
_RIDGE = 1e-2


class StreamStatistics(NamedTuple):
    """Per KV head, float32: mean [H, D], covariance [H, D, D] and weight of errors [H, D, D]."""

    mean: torch.Tensor
    covariance: torch.Tensor
    weight: torch.Tensor


def make_frame(statistics: StreamStatistics, pairs: int) -> Frame:
    """The frame of a stream; `pairs` rotary pairs (i, i + D/2), from the first on, stay pairs."""
    # In float64: the map is an inverse square root of a matrix that may be nearly singular.
    covariance, importance = (_ridged(m.double()) for m in statistics[1:])
    matrix, inverse, weight = (torch.zeros_like(covariance) for _ in range(3))
    size = covariance.shape[-1]
    dims = torch.arange(size)
    turned = dims[:pairs]
    rest = dims[dims % (size // 2) >= pairs]
    for indices in (torch.stack((turned, turned + size // 2), dim=-1), rest[None]):
        if indices.numel():
            groups = indices.to(covariance.device, non_blocking=True)
            block = (slice(None), groups[:, :, None], groups[:, None, :])
            parts = _even_map(covariance[block], importance[block])
            for whole, part in zip((matrix, inverse, weight), parts, strict=True):
                whole[block] = part
    fields = matrix, inverse, feedback_of(weight)
    return Frame(statistics.mean.unsqueeze(1), *(field.float() for field in fields))


def offset_alone(statistics: StreamStatistics) -> StreamStatistics:
    """The same mean, with channels of one variance and weight and nothing between them."""
    eye = torch.eye(statistics.mean.shape[-1]).expand_as(statistics.covariance)
    return StreamStatistics(statistics.mean, eye, eye)


def tied_weight(pull: torch.Tensor, norm: torch.Tensor, pairs: int) -> torch.Tensor:
    """How much an error in the latent V matters, [H, D, D].

    An error e in the value of a token with the attention p moves the output by p e. As a part of
    the key it moves the score by q w e and the output by p (q w e) (v - output). Summed over tokens
    and divided by the sum of p^2, the squares are those of e and w w^T times `pull`.

    Args:
        pull: [H, D, D], sum of p^2 |v - output|^2 q q^T over that of p^2, q scaled.
        norm: [D], w, the weight of `k_norm`.
        pairs: rotary pairs; their members are averaged and have nothing in common with other
            dimensions, as the distance of two tokens turns one into the other.
    """
    size = pull.shape[-1]
    turned = torch.arange(size, device=pull.device) % (size // 2) < pairs
    own = pull.diagonal(dim1=-2, dim2=-1).unflatten(-1, (2, -1)).mean(-2).repeat(1, 2)
    still = torch.where(turned[:, None] | turned, 0.0, pull)
    averaged = still + torch.where(turned, own, 0.0).diag_embed()
    return averaged * (norm[:, None] * norm) + torch.eye(size, device=pull.device)


def output_pulls(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, query_indices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over queries and keys of p^2 |v - o|^2 q q^T, [H, D, D], and of p^2, [H, 1, 1].

    Args:
        query: [heads, T, D], scaled; key, value: [H, T, D].
        query_indices: indices of the queries that are looked at.
    """
    chosen = query[:, query_indices].unflatten(0, (key.shape[0], -1))
    scores = chosen @ key.unsqueeze(1).mT
    later = torch.arange(key.shape[1], device=key.device) > query_indices[:, None]
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    output, squares = weights @ value.unsqueeze(1), weights.square()
    # |v - o|^2 = v v - 2 v o + o o, without a tensor of [queries, keys, D].
    apart = (
        (squares * value.square().sum(-1)[:, None, None]).sum(-1)
        - 2 * ((squares @ value.unsqueeze(1)) * output).sum(-1)
        + squares.sum(-1) * output.square().sum(-1)
    )
    rows = chosen.flatten(1, 2)
    # The difference of large numbers may fall below 0 by rounding.
    pull = (apart.clamp_min(0).flatten(1, 2).unsqueeze(-1) * rows).mT @ rows
    return pull, squares.sum((1, 2, 3))[:, None, None]


def _ridged(matrix: torch.Tensor) -> torch.Tensor:
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return matrix + _RIDGE * mean[:, None, None] * eye


def _even_map(
    covariance: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """T, its inverse and the weight of errors in z, of matrices [..., n, n]."""
    # Without a look at what failed, for which the host would wait for a device.
    lower, _ = torch.linalg.cholesky_ex(covariance)
    squares, vectors = torch.linalg.eigh(lower.mT @ weight @ lower)
    stretch = squares.clamp_min(1e-30).pow(0.25).unsqueeze(-1)
    mixing = mixing_matrix(weight.shape[-1]).to(weight.device, non_blocking=True)
    gain = stretch.square().mean(-2, keepdim=True).sqrt()
    inner = torch.linalg.solve_triangular(lower.mT, vectors, upper=True)  # L^-T U
    matrix = mixing @ (stretch * inner.mT) / gain
    inverse = (lower @ vectors) @ (gain * mixing.mT / stretch)
    return matrix, inverse, mixing @ (stretch.square() * mixing.mT)
