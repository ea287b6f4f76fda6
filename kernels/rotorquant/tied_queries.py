"""Queries that meet rows of V in the place of K = RoPE(w V).

All that happens to a query q on the way is linear, and folded into a few constants of the layer:

- on dimensions without a position, w q meets V;
- on a rotary pair, the factors of the key's cosine are w q and those of its sine w (q2, -q1);
- rows that are packed hold z = T (x - m), so both are taken to their space by T^-T. It keeps the
  pairs, so the pairs have a matrix of their own. What is left out, m, is a row like any other.
"""

from __future__ import annotations

import torch

from rotorquant.codec import Codec
from rotorquant.ops.attend import Rope
from rotorquant.ops.decode import Reading
from rotorquant.tied import TiedKey

__all__ = ["TiedQueries"]


class TiedQueries:
    """Prepares the queries of a layer.

    Args:
        tie: how K follows from V.
        codec: of the packed rows of V; `packed` is right only where it keeps the pairs that turn
            (`reading.in_place`).
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
        self._still = weight.index_fill(0, both, 0.0)
        # [4 pairs]: dimensions that give the factors of cosine, then those of sine
        self._source = torch.cat((both, second, first))
        self._factor = torch.cat((weight[both], weight[first], -weight[second]))
        # [2 pairs, 2 pairs], of every head where the codec has a map of every head: T^-T on pairs
        basis = torch.eye(weight.shape[0], device=device)[both]
        self._turn = codec.to_stored(basis).index_select(-1, codec.place[both])
        self._left_out = None if codec.offset is None else codec.offset.index_select(-1, both)

    def exact(self, query: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> Reading:
        """Queries as they meet V itself.

        Args:
            query: [B, H, R, D] float32, scaled, with its own rotary embedding.
            positions: [B, N] integers, of the rows.
            dtype: to which the model rounds cosine and sine.
        """
        turned = query.index_select(-1, self._source) * self._factor
        rope = Rope(turned, *self._natural, positions, self._frequencies, dtype)
        return Reading(query * self._still, rope)

    def packed(self, exact: Reading) -> Reading:
        """The same queries as they meet packed rows."""
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
        return Reading(self._codec.to_stored(exact.query), rope, shift)
