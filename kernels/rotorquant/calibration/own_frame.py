"""Frames without a calibration: mean and covariance of the very rows that are packed first.

What a calibration learns from another text, a layer can see for itself when it packs: the mean of
its rows, and the channels in which they differ. What an error in a channel costs it cannot see, as
keys and values do not say it; the queries of the prompt do (`QuerySquares`), which a layer sees
before it packs anything. docs/benchmarks/fidelity.md has what this gains, docs/log.md what did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch

from rotorquant.calibration.statistics import StreamStatistics, make_frame, tied_weight
from rotorquant.codec.codec import Frame

__all__ = ["QuerySquares", "own_frames"]

_QUERIES = 128  # of a chunk
_MOST_ROWS = 4096  # looked at: a mean of more does not move
# Of D / rows, by which the covariance of few rows gives way to channels that are all alike
_SHRINKAGE = 0.06


def own_frames(
    streams: Sequence[torch.Tensor],
    squares: torch.Tensor,
    *,
    pairs: int,
    norm: torch.Tensor | None,
) -> tuple[Frame, ...]:
    """The frame of every stream of a layer from its rows, float32 where they lie.

    Args:
        streams: [B, H, N, D] each: K and V, or the latent V alone.
        squares: [H, D, D] float32, of the scaled queries (`QuerySquares`).
        pairs: rotary pairs, from the first on, that the frame keeps as pairs.
        norm: [D], the weight w of a latent that K = RoPE(w V) follows from; None for K and V.
    """
    found = [_mean_and_spread(stream) for stream in streams]
    # What a pass stored that will be refused must not break off here, where nobody says why.
    squares = squares.nan_to_num(0.0, 0.0, 0.0)
    eye = torch.eye(squares.shape[-1], device=squares.device).expand_as(squares)
    if norm is None:
        # An error of V moves the output by itself, in whatever direction it points.
        weights = [squares, eye]
    else:
        (_, spread) = found[0]
        # |v - o|^2 of `output_pulls`, where attention is spread over many tokens
        apart = spread.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        weights = [tied_weight(apart * squares, norm, pairs)]
    return tuple(
        make_frame(StreamStatistics(mean, spread, weight), pairs)
        for (mean, spread), weight in zip(found, weights, strict=True)
    )


class QuerySquares(NamedTuple):
    """The queries that a layer has seen: sum of q q^T [H, D, D], scaled, rows, and tokens."""

    total: torch.Tensor | None = None
    rows: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, tensors: Sequence[torch.Tensor]) -> Self:
        """What `tensors` gave."""
        if not tensors:
            return cls()
        rows, tokens = tensors[1].tolist()
        return cls(tensors[0], rows, tokens)

    def tensors(self) -> list[torch.Tensor]:
        """What a file holds of it."""
        return [] if self.total is None else [self.total, torch.tensor([self.rows, self.tokens])]

    def on_host(self) -> Self:
        """A copy on the CPU, for which nothing waits."""
        if self.total is None:
            return self
        return self._replace(total=self.total.to("cpu", non_blocking=True))

    def plus(self, query: torch.Tensor, scaling: float, heads: int) -> Self:
        """With some queries of a chunk [B, query heads, T, D] of `heads` KV heads."""
        step = -(-query.shape[2] // _QUERIES)
        chosen = query[:, :, ::step].detach().float() * scaling
        rows = chosen.unflatten(1, (heads, -1)).transpose(0, 1).flatten(1, 3)
        total = rows.mT @ rows
        if self.total is not None:
            total += self.total.to(total.device, non_blocking=True)
        return type(self)(total, self.rows + rows.shape[1], self.tokens + query.shape[2])

    def mean(self, heads: int, head_dim: int, device: torch.device) -> torch.Tensor:
        """[heads, head_dim, head_dim] float32; all alike where none has been seen."""
        if self.total is None:
            return torch.eye(head_dim, device=device).repeat(heads, 1, 1)
        return self.total.to(device, non_blocking=True) / self.rows


def _mean_and_spread(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [H, D] and covariance [H, D, D], less sure where rows are few."""
    flat = rows.transpose(0, 1).flatten(1, 2)
    flat = flat[:, :: -(-flat.shape[1] // _MOST_ROWS)].double().nan_to_num(0.0, 0.0, 0.0)
    count, size = flat.shape[1:]
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    spread = centred.mT @ centred / count
    alike = spread.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None] * torch.eye(
        size, dtype=spread.dtype, device=spread.device
    )
    spread = torch.lerp(spread, alike, min(1.0, _SHRINKAGE * size / count))
    return mean.float(), spread.float()
