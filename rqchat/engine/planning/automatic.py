"""Which model `auto` is: the largest Gemma 4 that fits the device. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rqchat.engine.planning.candidate import SHORTEST_TOKENS
from rqchat.engine.planning.formats import LEAST_WEIGHT_BITS
from rqchat.engine.planning.gpus import DeviceInfo
from rqchat.engine.planning.known_models import KnownModel, known_models
from rqchat.engine.planning.plan import MemoryPlan, make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings
from rqchat.errors import DoesNotFitError, UsageError

__all__ = ["Fitting", "fitting_models"]


@dataclass(frozen=True, slots=True)
class Fitting:
    """A published model and its plan for a device."""

    model: KnownModel
    plan: MemoryPlan


def fitting_models(device: DeviceInfo, settings: Settings) -> Iterator[Fitting]:
    """The published models that fit `device` with 4-bit weights or better.

    The largest first, but those whose context would be shorter than any that the plan gives up for
    better weights last: a smaller model reads more. Weights that `settings` ask for count as they
    are.
    """
    short = []
    for model in known_models():
        shape = ModelShape.from_config(model.config)
        try:
            plan = make_plan(shape, device, replace(settings, model=model.name))
        except (DoesNotFitError, UsageError):  # a context beyond the model's, for one
            continue
        if not settings.weights and plan.chosen.weight_bits < LEAST_WEIGHT_BITS:
            continue
        fitting = Fitting(model, plan)
        if plan.chosen.context_tokens < min(plan.asked_tokens, SHORTEST_TOKENS):
            short.append(fitting)
        else:
            yield fitting
    yield from short
