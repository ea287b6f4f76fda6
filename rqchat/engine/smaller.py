"""Which smaller Gemma 4 would fit a device, in words. No torch."""

from __future__ import annotations

from collections.abc import Callable

from rqchat.engine.candidate import Candidate
from rqchat.engine.catalog import KNOWN_MODELS
from rqchat.engine.shape import ModelShape

__all__ = ["smaller_models"]

_MODELS_NAMED = 2


def smaller_models(
    fit: Callable[[ModelShape], Candidate | None], parameters: int, above_bits: int
) -> list[str]:
    """Advice on the largest published models under `parameters` that `fit` takes.

    Only those whose weights then have more than `above_bits` bits: a smaller model that has to be
    cut just as low is no way out.
    """
    said = []
    for model in KNOWN_MODELS:
        shape = ModelShape.from_config(model.config)
        if shape.parameters >= parameters:
            continue
        taken = fit(shape)
        if taken is not None and taken.weight_bits > above_bits:
            said.append(
                f"take --model {model.name}, which fits with {taken.weights} weights and"
                f" {taken.context_tokens:,} tokens"
            )
    return said[:_MODELS_NAMED]
