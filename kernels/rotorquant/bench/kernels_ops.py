"""What is timed: every op is a function that gives trials of a stored layer, listed in `OPS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch

from rotorquant.bench.kernels_layer import GLOBAL_WAYS, SLIDING_WAYS, WINDOW, Layer, Store, Way
from rotorquant.bench.kernels_parts import parts

__all__ = ["OPS", "Trial", "trials"]

_PREFILL_CHUNK = 512
_PREFILL_TOKENS = 32_768  # no longer history than this
_QUANTIZE_TOKENS = 32_768
_PART_TOKENS = 8_192
# What the figures to reach are made of comes first, so that it is there when time runs out.
_FIRST_WAYS = ("aligned 4", "bf16 K+V, SDPA", "bf16 K+V", "turbo, published 4", "turbo, best 4")
_FIRST_TOKENS = (131_072, 32_768, 8_192)


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
    # A query of the chunk does not see the ones behind it.
    pairs = chunk * tokens - chunk * (chunk - 1) // 2
    # Two products of a multiplication and an addition for each value.
    flops = 4 * heads * head_dim * pairs
    yield Trial(f"prefill {chunk}", way.name, tokens, store.nbytes, store.attend, flops)


OPS = (_decode, _quantize, _prefill)
"""Every one is asked once for each length and way of a global layer; to add an op, add it here."""


def trials(
    tokens: list[int], only: list[str] | None, device: torch.device
) -> Iterator[Callable[[], Iterator[Trial]]]:
    """What makes them, one layer at a time; the most telling ones first."""
    lengths = sorted(tokens, key=lambda n: _rank(n, _FIRST_TOKENS))
    ways = [way for way in GLOBAL_WAYS if not only or way.name in only]
    first = sorted(
        (way for way in ways if way.name in _FIRST_WAYS), key=lambda w: _rank(w.name, _FIRST_WAYS)
    )
    yield from _stored(lengths, first, device)
    for way in SLIDING_WAYS:
        if not only or way.name in only:
            yield partial(_sliding, way, device)
    if not only:
        yield partial(_parts, min(_PART_TOKENS, max(tokens)), device)
    yield from _stored(lengths, [way for way in ways if way not in first], device)


def _stored(
    lengths: list[int], ways: list[Way], device: torch.device
) -> Iterator[Callable[[], Iterator[Trial]]]:
    for length, op, way in product(lengths, OPS, ways):
        yield partial(op, length, way, device)


def _sliding(way: Way, device: torch.device) -> Iterator[Trial]:
    store = Store(Layer(WINDOW + 64, device, sliding=True), way)
    yield Trial("sliding", way.name, WINDOW, store.nbytes, store.attend)


def _parts(tokens: int, device: torch.device) -> Iterator[Trial]:
    for part in parts(tokens, min(_PREFILL_CHUNK, tokens // 4), device):
        yield Trial(part.op, part.way, part.tokens, part.nbytes, part.step, part.flops)


def _rank(value: object, order: tuple[object, ...]) -> int:
    return order.index(value) if value in order else len(order)
