"""Cards that vLLM needs for several users of one model: plain arithmetic. No torch.

vLLM keeps K and V of every layer, also where K is a function of V, in pages of 16 tokens. Layers
of both kinds lie in groups of one length, whose pages have one size in bytes: the kind with fewer
bytes a token has more tokens in a page (`vllm/v1/core/kv_cache_utils.py`). Heads are split over the
cards of a tensor-parallel group, and copied where there are fewer heads than cards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rqchat.engine.planning.formats import weights_of
from rqchat.engine.planning.gpu_bandwidth import bandwidth_of, typical_card
from rqchat.engine.planning.memory import Budget
from rqchat.engine.planning.shape import KVLayers, ModelShape

__all__ = ["COMMON_CARDS", "MEMORY_SHARE", "STEP_TOKENS", "Cards", "Demand", "cards_for"]

_GIB = 2**30
COMMON_CARDS = tuple(size * _GIB for size in (24, 32, 48, 80, 96, 131))
"""Bytes of the cards that a table shows; `gpu_bandwidth.typical_card` names each."""

MEMORY_SHARE = 0.92
"""Of a card, which vLLM is told to take (`--gpu-memory-utilization`)."""

STEP_TOKENS = 8192
"""Prompt tokens that it reads at a time (`--max-num-batched-tokens`)."""

_PAGE_TOKENS = 16
# CUDA's context, NCCL's buffers and captured graphs; reckoned, not measured
_FIXED_BYTES = 3 * _GIB
_STREAMS = 16  # tensors of a step as wide as the stream, at the largest moment; reckoned
_TENSOR_PARALLEL = (1, 2, 4, 8)
_MOST_STAGES = 16
_IMAGE_TOKENS = 280


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be served.

    Attributes:
        shape: of the model.
        weights: `bf16`, `int8` or `int4`.
        kv_bytes: of a value of the KV cache, 2 or 1.
        users: who ask at the same moment.
        context_tokens: of each.
    """

    shape: ModelShape
    weights: str
    kv_bytes: int
    users: int
    context_tokens: int

    @property
    def weight_bytes(self) -> int:
        """All weights, as the plan of one card counts them, and the audio tower with them."""
        budget = Budget(self.shape, True, STEP_TOKENS, _IMAGE_TOKENS, True, True)
        return budget.weight_bytes(weights_of(self.weights), 16) + 2 * self.shape.audio

    def user_bytes(self, cards: int) -> int:
        """KV cache of one user with a full context, on each of `cards` that share the heads."""
        pages = _Pages(self.shape, self.kv_bytes, cards)
        return pages.of_global(self.context_tokens) + pages.of_sliding(self.shape.window - 1)

    def step_bytes(self, cards: int) -> int:
        """What a step that reads a prompt adds to that, whoever's prompt it is."""
        pages = _Pages(self.shape, self.kv_bytes, cards)
        streams = _STREAMS * STEP_TOKENS * self.shape.hidden * 2
        return pages.of_sliding(STEP_TOKENS) + streams + _FIXED_BYTES


class _Pages:
    """Pages of one sequence on one of `cards`, in bytes."""

    def __init__(self, shape: ModelShape, kv_bytes: int, cards: int) -> None:
        self._kinds = shape.global_kv, shape.sliding_kv
        self._value_bytes, self._cards = kv_bytes, cards
        counts = [kind.layers for kind in self._kinds if kind.layers]
        self._group = min(counts)
        self._page_bytes = _PAGE_TOKENS * max(self._token_bytes(kind) for kind in self._kinds)

    def of_global(self, tokens: int) -> int:
        """Of the layers that see all `tokens`."""
        return self._of(self._kinds[0], tokens, 0)

    def of_sliding(self, tokens: int) -> int:
        """Of the layers that see the last `tokens`, which may begin in the middle of a page."""
        return self._of(self._kinds[1], tokens, 1)

    def _of(self, kind: KVLayers, tokens: int, more_pages: int) -> int:
        if not kind.layers:
            return 0
        layers = -(-kind.layers // self._group) * self._group
        page_tokens = self._page_bytes // self._token_bytes(kind)
        return layers * (-(-tokens // page_tokens) + more_pages) * self._page_bytes

    def _token_bytes(self, kind: KVLayers) -> int:
        heads = max(1, -(-kind.heads // self._cards))
        return 2 * heads * kind.head_dim * self._value_bytes


@dataclass(frozen=True, slots=True)
class Cards:
    """A way to serve a demand with one kind of card.

    Attributes:
        card: its name; empty where it is only known by its size.
        card_bytes: its memory.
        tensor_parallel: cards that share each layer.
        stages: machines of which each has a part of the layers.
        replicas: servers with all layers, behind a router.
        users_each: users that one of them has room for.
        weight_bytes, kv_bytes, step_bytes: on each card.
        tokens_per_s: the ceiling for each user while all of them are answered at full contexts; 0
            where the card's bandwidth is not known.
    """

    card: str
    card_bytes: int
    tensor_parallel: int
    stages: int
    replicas: int
    users_each: int
    weight_bytes: int
    kv_bytes: int
    step_bytes: int
    tokens_per_s: float

    @property
    def count(self) -> int:
        """Cards in all."""
        return self.tensor_parallel * self.stages * self.replicas


def cards_for(demand: Demand, card_bytes: int) -> Cards | None:
    """The fewest cards of that size, and of several such ways the one with the fewest servers.

    None where not even sixteen machines of eight hold the model and one user.
    """
    for stages in range(1, _MOST_STAGES + 1):
        ways = list(_ways(demand, card_bytes, stages))
        if ways:
            return min(ways, key=lambda way: (way.count, way.replicas))
    return None


def _ways(demand: Demand, card_bytes: int, stages: int) -> Iterator[Cards]:
    """One for each number of cards that a layer can be split over."""
    # Layers are split over machines only where a whole one is too small
    for cards in _TENSOR_PARALLEL if stages == 1 else _TENSOR_PARALLEL[-1:]:
        if demand.shape.query_heads % cards:
            continue
        weights = demand.weight_bytes // (cards * stages)
        user, step = demand.user_bytes(cards) // stages, demand.step_bytes(cards)
        room = int(MEMORY_SHARE * card_bytes) - weights - step
        if room < user:
            continue
        replicas = -(-demand.users // (room // user))
        users = -(-demand.users // replicas)
        card = typical_card(card_bytes)
        read = stages * (weights + users * user)  # one stage after the other
        speed = bandwidth_of(card) / read
        yield Cards(
            card, card_bytes, cards, stages, replicas, users, weights, users * user, step, speed
        )
