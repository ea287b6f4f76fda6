"""One way to fill a device, and which of several is taken. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rqchat.engine.planning.formats import (
    HEAD_ERROR,
    KV_DIVERGENCE,
    KV_ERROR,
    SOUND_WEIGHT_BITS,
    weights_of,
)
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.memory import MemoryBytes
from rqchat.engine.planning.shape import ModelShape

__all__ = ["SHORTEST_TOKENS", "Candidate", "choose", "expected_error", "suggest_models"]

SHORTEST_TOKENS = 65_536
"""Context is given up for 4-bit weights down to this many tokens."""

_QUALITY_TOKENS = 32_768  # the context that quality may not fall below where nobody asked for one
_MODELS_NAMED = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to fill the device: weights, KV bits, and the longest context they leave room for.

    Attributes:
        weights, weight_bits: the format of the weights and its nominal bits.
        kv_bits: of the packed tokens of the global layers.
        context_tokens: the longest context.
        bytes: where the memory goes.
        sliding_bits: what the sliding windows keep, 16 or 8.
        head_bits: of embedding and output head, 16 or 8.
        on_host: whether per-layer embeddings and image tower lie in main memory.
        chunk_tokens: tokens that one prefill step reads; a picture always fits into one.
        read_bytes: what one decode step reads with a full cache.
        tokens_per_s: the ceiling of decoding: the device's bandwidth over `read_bytes`; 0 where
            the bandwidth is unknown.
        divergence: what weights and cache cost together, measured on the pocket model: mean KL
            divergence of the next token, in nats.
    """

    weights: str
    weight_bits: int
    kv_bits: int
    context_tokens: int
    bytes: MemoryBytes
    sliding_bits: int = 16
    head_bits: int = 16
    on_host: bool = False
    chunk_tokens: int = 512
    read_bytes: int = 0
    tokens_per_s: float = 0.0

    @property
    def divergence(self) -> float:
        return weights_of(self.weights).divergence + KV_DIVERGENCE[self.kv_bits]

    def as_json(self) -> dict[str, Any]:
        """The object that `rqchat plan --json` prints."""
        return {
            "weights": self.weights,
            "weight_bits": self.weight_bits,
            "kv_bits": self.kv_bits,
            "context": self.context_tokens,
            "chunk": self.chunk_tokens,
            "bytes": self.bytes.as_json(),
        }


def expected_error(candidate: Candidate, shape: ModelShape) -> float:
    """Expected relative error; packed KV counts by the share of layers that read it."""
    packed, sliding = shape.global_kv.layers, shape.sliding_kv.layers
    kv = packed * KV_ERROR[candidate.kv_bits] + sliding * KV_ERROR[candidate.sliding_bits]
    error = weights_of(candidate.weights).error + HEAD_ERROR[candidate.head_bits]
    return error + kv / (packed + sliding)


def choose(
    fitting: Sequence[Candidate],
    shape: ModelShape,
    asked_tokens: int,
    prefer: str | None,
    *,
    context_given: bool,
) -> Candidate:
    """The candidate to take of those that fit, which stand in falling precision of their weights.

    `prefer` is None for: of those that reach `asked_tokens` the one with the least expected error;
    if none does, the longest context. Weights of fewer than 4 bits are taken where better ones
    leave less than 65,536 tokens, or where nothing else was to be had.
    """

    def error(candidate: Candidate) -> float:
        return expected_error(candidate, shape)

    longest = max(c.context_tokens for c in fitting)
    sound = [c for c in fitting if c.weight_bits >= SOUND_WEIGHT_BITS]
    if prefer == "context":
        return min((c for c in fitting if c.context_tokens == longest), key=error)
    if prefer == "quality":
        wanted = asked_tokens if context_given else min(asked_tokens, _QUALITY_TOKENS)
        least = min(wanted, longest)
        return min((c for c in fitting if c.context_tokens >= least), key=error)
    long_enough = max((c.context_tokens for c in sound), default=0) >= min(
        asked_tokens, SHORTEST_TOKENS
    )
    taken = sound if long_enough else fitting
    longest = max(c.context_tokens for c in taken)
    reaching = [c for c in taken if c.context_tokens == longest]
    if prefer == "speed":
        return min(reaching, key=lambda c: c.read_bytes)
    return min(reaching, key=error)  # the first of equals: the higher weights


def suggest_models(
    plan: Callable[[ModelShape], Candidate | None],
    parameters: int,
    longer_than_tokens: int = 0,
) -> list[str]:
    """Advice to take one of the largest published models that are smaller and fit.

    Args:
        plan: what would be taken of a model; None where it does not fit.
        parameters: of the model that was asked for.
        longer_than_tokens: the context that a smaller model has to exceed to be worth naming.
    """
    advice: list[str] = []
    for model in known_models():
        shape = ModelShape.from_config(model.config)
        if shape.parameters >= parameters:
            continue
        taken = plan(shape)
        if (
            taken is None
            or taken.weight_bits < SOUND_WEIGHT_BITS
            or taken.context_tokens <= longer_than_tokens
        ):
            continue
        advice.append(
            f"take --model {model.short_name}, which fits with {taken.weights} weights and"
            f" {taken.context_tokens:,} tokens"
        )
    return advice[:_MODELS_NAMED]
