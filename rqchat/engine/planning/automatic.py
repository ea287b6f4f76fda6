"""Which model `auto` is: the largest Gemma 4 that fits the device. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rqchat.engine.planning.candidate import SHORTEST_TOKENS
from rqchat.engine.planning.formats import SOUND_WEIGHT_BITS
from rqchat.engine.planning.gpus import DeviceInfo
from rqchat.engine.planning.known_models import KnownModel, known_models
from rqchat.engine.planning.plan import MemoryPlan, make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings
from rqchat.errors import DoesNotFitError, UsageError

__all__ = ["Fitting", "fitting_models"]

# For a token, with a full cache: at the 20 to 40 GB/s of common processors 5 to 10 tokens a second
_MOST_CPU_READ_BYTES = 4 * 10**9


@dataclass(frozen=True, slots=True)
class Fitting:
    """A published model and its plan for a device."""

    model: KnownModel
    plan: MemoryPlan


def fitting_models(device: DeviceInfo, settings: Settings) -> Iterator[Fitting]:
    """The published models that fit `device`.

    The largest first, but those last that need 3-bit weights, those whose context would be shorter
    than any that the plan gives up for better weights, as a smaller model reads more, and those
    that nobody would wait for on a CPU. Weights that `settings` ask for count as they are.
    """
    last = []
    for model in known_models():
        shape = ModelShape.from_config(model.config)
        try:
            plan = make_plan(shape, device, replace(settings, model=model.name))
        except (DoesNotFitError, UsageError):  # a context beyond the model's, for one
            continue
        fitting = Fitting(model, plan)
        is_coarse = not settings.weights and plan.chosen.weight_bits < SOUND_WEIGHT_BITS
        is_short = plan.chosen.context_tokens < min(plan.asked_tokens, SHORTEST_TOKENS)
        is_slow = not device.is_gpu and plan.chosen.read_bytes > _MOST_CPU_READ_BYTES
        if is_short or is_slow or is_coarse:
            last.append(fitting)
        else:
            yield fitting
    yield from last
