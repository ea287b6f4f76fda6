"""Which quantized checkpoints can be read, from their config.json. No torch."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from rqchat.engine.foreign import border
from rqchat.engine.planning.config_section import ConfigSection
from rqchat.errors import ModelError

__all__ = ["check_quantization"]

_GROUP = 32
_WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": _GROUP}
# What says nothing of how the weights are stored; anything else may change what they mean
_HARMLESS = (
    *("quant_method", "format", "config_groups", "ignore", "quantization_status", "version"),
    *("global_compression_ratio", "kv_cache_scheme"),
)


def check_quantization(quantization: Any, name: str) -> None:
    """Lets none pass, and what is kept as it is shipped: symmetric 4-bit groups of 32, packed.

    Args:
        quantization: the `quantization_config` of a config.json, or None.
        name: what errors call the model.

    Raises:
        ModelError: it is another one.
    """
    if not quantization:
        return
    with border(lambda cause: _refusal(name, f"something unreadable ({cause})")):
        if not isinstance(quantization, Mapping):
            quantization = {"quant_method": quantization}
        method = f"{quantization.get('quant_method')} {quantization.get('format', '')}".strip()
        if method != "compressed-tensors pack-quantized":
            raise _refusal(name, method)
        odd = _odd(quantization)
        if odd is not None:
            raise _refusal(name, f"{method} with {odd}")


def _odd(quantization: Mapping[str, Any]) -> str | None:
    """The first thing that cannot be read of a `pack-quantized` checkpoint; None without one."""
    groups = [
        ConfigSection(group).section("weights")
        for group in (quantization.get("config_groups") or {}).values()
    ]
    sections = [each for each in groups if each is not None]
    if not groups or len(sections) < len(groups):
        return "no groups of weights"
    for weights in sections:
        for key, value in _WEIGHTS.items():
            if weights.get(key) != value:
                return f"{key} {reprlib.repr(weights.get(key))}"
        # Columns in an order of their own, which the words do not show.
        if weights.get("actorder"):
            return f"actorder {reprlib.repr(weights.get('actorder'))}"
    for key, value in quantization.items():
        idle = key == "sparsity_config" and value == {"format": "dense"}
        if value and key not in _HARMLESS and not idle:
            return f"{key} {reprlib.repr(value)}"
    return None


def _refusal(name: str, method: str) -> ModelError:
    return ModelError(
        f"{name} is quantized as {method:.200}, which rqchat cannot read; take its bf16 original,"
        " which rqchat quantizes itself while loading, or Google's 4-bit QAT files, such as --model"
        " google/gemma-4-31B-it --weights int4"
    )
