"""The few ways to fill a device that differ in something a person wants. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rqchat.engine.planning.candidate import SHORTEST_TOKENS, Candidate
from rqchat.engine.planning.formats import LEAST_WEIGHT_BITS
from rqchat.engine.planning.known_models import known_model, known_models
from rqchat.engine.planning.plan import MemoryPlan, plan_by_default
from rqchat.engine.planning.shape import ModelShape

__all__ = ["Alternative", "alternatives"]

_ROWS = 6
_OWN_ROWS = 4
# Nobody notices less: of the context, of the divergence from 16 bits, of the bytes of a step
_CONTEXT_SHARE, _LOSS_SHARE, _SPEED_SHARE = 0.02, 0.02, 0.2


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way, of the model that was planned or of another one.

    Attributes:
        model: the short name of the other model; empty for the planned one.
        candidate: the way.
        hub_name: the hub id of the other model.
        is_larger: whether that has more parameters.
    """

    model: str
    candidate: Candidate
    hub_name: str = ""
    is_larger: bool = False


def alternatives(plan: MemoryPlan, model_name: str) -> tuple[Alternative, ...]:
    """At most six, the chosen one among them: the best weights first, then other models.

    Args:
        plan: of the model.
        model_name: its hub id; other models are shown beside published ones alone.
    """
    own = _own(plan)
    others = [*_others(plan, model_name)][: _ROWS - len(own)] if plan.device.is_gpu else []
    return (*(Alternative("", candidate) for candidate in own), *others)


def _own(plan: MemoryPlan) -> list[Candidate]:
    """The chosen way and those that are better in something."""
    kept = [plan.chosen]
    for candidate in _by_merit(plan):
        if len(kept) < _OWN_ROWS and not any(_no_worse(other, candidate) for other in kept):
            kept.append(candidate)
    if len(kept) == 1:
        # What stands before it has more bits: how much context that would cost
        place = plan.candidates.index(plan.chosen)
        kept += plan.candidates[max(place - 1, 0) : place]
    return [candidate for candidate in plan.candidates if candidate in kept]


def _by_merit(plan: MemoryPlan) -> Iterator[Candidate]:
    """What each format of the weights holds most with, what is fastest, then the rest."""
    for weights in dict.fromkeys(candidate.weights for candidate in plan.candidates):
        ways = [candidate for candidate in plan.candidates if candidate.weights == weights]
        yield max(ways, key=lambda c: (c.context_tokens, -c.divergence))
    yield min(plan.candidates, key=lambda c: (c.read_bytes, c.divergence))
    least = min(plan.asked_tokens, SHORTEST_TOKENS)
    yield from (c for c in plan.candidates if c.context_tokens >= least)


def _no_worse(one: Candidate, other: Candidate) -> bool:
    """Whether nobody would take `other` where there is `one`."""
    return (
        one.context_tokens >= other.context_tokens * (1 - _CONTEXT_SHARE)
        and one.divergence <= other.divergence * (1 + _LOSS_SHARE)
        and one.read_bytes <= other.read_bytes * (1 + _SPEED_SHARE)
    )


def _others(plan: MemoryPlan, model_name: str) -> Iterator[Alternative]:
    """Other published models as they would be taken, the nearest larger ones and smaller ones."""
    own = known_model(model_name)
    if own is None:
        return
    place = known_models().index(own)
    smaller, larger = known_models()[place + 1 :], known_models()[:place][::-1]
    for model in (*larger[:1], *smaller, *larger[1:]):
        taken = plan_by_default(ModelShape.from_config(model.config), plan.device)
        if taken is not None and taken.weight_bits >= LEAST_WEIGHT_BITS:
            yield Alternative(model.short_name, taken, model.name, is_larger=model in larger)
