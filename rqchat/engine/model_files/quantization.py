"""Which quantized checkpoints can be read, from their config.json. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rqchat.errors import ModelError

__all__ = ["check_quantization"]

_GROUP = 32


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
    if not isinstance(quantization, Mapping):
        quantization = {"quant_method": quantization}
    method = f"{quantization.get('quant_method')} {quantization.get('format', '')}".strip()
    groups = quantization.get("config_groups") or {}
    weights = [(group or {}).get("weights") or {} for group in groups.values()]
    wanted = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": _GROUP}
    if method == "compressed-tensors pack-quantized" and weights:
        odd = [
            f"{key} {one.get(key)!r}"
            for one in weights
            for key, value in wanted.items()
            if one.get(key) != value
        ]
        # Columns in an order of their own, which the words do not show.
        odd += [f"actorder {one['actorder']!r}" for one in weights if one.get("actorder")]
        if not odd:
            return
        method += f" with {odd[0]}"
    raise ModelError(
        f"{name} is quantized as {method}, which rqchat cannot read; take its bf16 original, which"
        " rqchat quantizes itself while loading, or Google's 4-bit QAT files, such as"
        " --model google/gemma-4-31B-it --weights int4"
    )
