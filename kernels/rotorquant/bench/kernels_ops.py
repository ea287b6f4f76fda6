"""What is timed: every op is a function that gives trials of a stored layer, listed in `OPS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from rotorquant.bench.kernels_layer import GLOBAL_WAYS, SLIDING_WAYS, WINDOW, Layer, Store, Way

__all__ = ["OPS", "Trial", "trials"]

_PREFILL_CHUNK = 512
_PREFILL_TOKENS = 32_768  # no longer history than this
_QUANTIZE_TOKENS = 32_768


@dataclass(frozen=True, slots=True)
class Trial:
    """Something to time.

    Attributes:
        op: its name; way: of `Way`; tokens: that it works on.
        nbytes: that it has to move at least; flops: of its two products, 0 where bytes count.
        step: does it.
    """

    op: str
    way: str
    tokens: int
    nbytes: int
    step: Callable[[], object]
    flops: int = 0


def _decode(tokens: int, way: Way, device: torch.device) -> Iterator[Trial]:
    store = Store(Layer(tokens, device), way)
    yield Trial("decode", way.name, tokens, store.nbytes, store.attend)


def _quantize(tokens: int, way: Way, device: torch.device) -> Iterator[Trial]:
    if way.bits < 16 and tokens <= _QUANTIZE_TOKENS:
        store = Store(Layer(tokens, device), way)
        yield Trial("quantize", way.name, tokens, store.encoded_nbytes, store.encode)


def _prefill(tokens: int, way: Way, device: torch.device) -> Iterator[Trial]:
    """A chunk of a prompt on top of its history."""
    if tokens > _PREFILL_TOKENS or way.sdpa or way.published:
        return
    chunk = min(_PREFILL_CHUNK, tokens // 4)
    layer = Layer(tokens, device, queries=chunk)
    store = Store(layer, way)
    heads, head_dim = layer.query.shape[1], layer.query.shape[-1]
    pairs = chunk * tokens - chunk * (chunk - 1) // 2
    flops = 4 * heads * head_dim * pairs
    yield Trial(f"prefill {chunk}", way.name, tokens, store.nbytes, store.attend, flops)


OPS = (_decode, _quantize, _prefill)
"""Every one is asked once for each length and way of a global layer; to add an op, add it here."""


def trials(tokens: list[int], only: list[str] | None, device: torch.device) -> Iterator[Trial]:
    """All of them; one layer is held at a time."""
    for way in SLIDING_WAYS:
        if not only or way.name in only:
            store = Store(Layer(WINDOW + 64, device, sliding=True), way)
            yield Trial("sliding", way.name, WINDOW, store.nbytes, store.attend)
    for length in tokens:
        for op in OPS:
            for way in GLOBAL_WAYS:
                if not only or way.name in only:
                    yield from op(length, way, device)
