"""The weights of a folder, whichever files it holds them in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rqchat.engine.model_files.resolve import holds_gguf
from rqchat.engine.weights.files.gguf_source import GgufSource
from rqchat.engine.weights.files.safetensors_source import SafetensorsSource, WeightSource
from rqchat.engine.weights.files.stacked_experts import StackedExperts, has_split_experts

__all__ = ["open_source"]


def open_source(folder: Path, config: Mapping[str, Any], name: str) -> WeightSource:
    """GGUF files where there is no model.safetensors, else that or its shards.

    Args:
        folder: holds the files.
        config: the model's config.json.
        name: what errors call the model.

    Raises:
        ModelError: files are missing, damaged, or in a format that cannot be read.
    """
    if holds_gguf(folder):
        return GgufSource(folder, name, needs_tower=bool(config.get("vision_config")))
    source = SafetensorsSource(folder, config, name)
    return StackedExperts(source) if has_split_experts(source.names()) else source
