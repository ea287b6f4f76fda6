"""What others do to keys and values, on transformers' own cache: the numbers, not their kernels.

A page of K (with its rotary embedding) and V of a layer that sees everything is rounded as the peer
would store it once it leaves the exact window, and kept in the model's dtype. Tokens that stay
exact are the same as those of our own caches. Bytes are those that the peer's format takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

__all__ = ["Peer", "PeerCache", "peers"]

_GROUP = 64
_SCALE_BITS = 32  # of a group: a scale and an offset of 16 bits each

Round = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Peer:
    """A way of others to store K and V [B, H, 64, D].

    Attributes:
        name: as printed.
        bits: of a code.
        value_bits: of a value, all that belongs to it counted.
        key, value: what is read again of a page.
    """

    name: str
    bits: int
    value_bits: float
    key: Round
    value: Round


class PeerCache(DynamicCache):
    """A stock cache whose old tokens have been rounded as a peer's.

    Args:
        config: text configuration of the model.
        peer: whose format.
        sink, recent: tokens that stay exact, at the beginning and at the end.
    """

    def __init__(self, config: Any, peer: Peer, sink: int, recent: int) -> None:
        super().__init__(config=config)
        self._peer, self._sink, self._recent = peer, sink, recent
        self._rounded: dict[int, int] = {}

    def flush(self) -> None:
        """Round the pages that have left the exact window."""
        for index, layer in enumerate(self.layers):
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if getattr(layer, "is_sliding", False) or keys is None or values is None:
                continue
            low = self._rounded.get(index, self._sink)
            while low + _GROUP + self._recent <= keys.shape[2]:
                page = slice(low, low + _GROUP)
                keys[:, :, page] = self._peer.key(keys[:, :, page].float())
                values[:, :, page] = self._peer.value(values[:, :, page].float())
                low += _GROUP
            self._rounded[index] = low

    @property
    def token_bytes(self) -> float:
        """Bytes of a rounded token in all layers that have some."""
        layers: list[Any] = [self.layers[index] for index in self._rounded]
        counts = (2 * layer.keys.shape[1] * layer.keys.shape[3] for layer in layers)
        return sum(counts) * self._peer.value_bits / 8


def peers(bits: int) -> Iterator[Peer]:
    """The formats of others at a width."""
    if bits in (2, 4):
        # KIVI (arXiv 2402.02750): keys by channel, values by token, groups of 64 with two numbers.
        each = bits + _SCALE_BITS / _GROUP
        yield Peer("kivi K+V", bits, each, _by_channel(bits), _by_token(bits))
        # transformers' `QuantizedCache` with quanto: both by token.
        yield Peer("by token K+V", bits, each, _by_token(bits), _by_token(bits))


def _by_token(bits: int) -> Round:
    def rounded(rows: torch.Tensor) -> torch.Tensor:
        groups = rows.unflatten(-1, (-1, min(_GROUP, rows.shape[-1])))
        return _even(groups, bits, -1).flatten(-2)

    return rounded


def _by_channel(bits: int) -> Round:
    return lambda rows: _even(rows, bits, 2)


def _even(rows: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Even steps between the least and the largest value along `dim`, both in float16."""
    low, high = rows.amin(dim, keepdim=True), rows.amax(dim, keepdim=True)
    low = low.half().float()
    step = ((high - low) / (2**bits - 1)).half().float().clamp_min(1e-7)
    return ((rows - low) / step).round().clamp(0, 2**bits - 1) * step + low
