"""The weights of a folder, whichever files it holds them in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rqchat.engine.model_files.gguf.gguf_files import gguf_files, gguf_place
from rqchat.engine.weights.files.gguf_source import GgufSource
from rqchat.engine.weights.files.safetensors_source import SafetensorsSource, WeightSource
from rqchat.engine.weights.files.stacked_experts import StackedExperts, has_split_experts

__all__ = ["open_source"]


def open_source(place: Path, config: Mapping[str, Any], name: str) -> WeightSource:
    """GGUF files where there is no model.safetensors, else that or its shards.

    Args:
        place: the folder that holds the files, or a GGUF file.
        config: the model's config.json.
        name: what errors call the model.

    Raises:
        ModelError: files are missing, damaged, or in a format that cannot be read.
    """
    source: WeightSource
    if gguf_place(place):
        source = GgufSource(gguf_files(place, name), config, name)
    else:
        source = SafetensorsSource(place, config, name)
    return StackedExperts(source) if has_split_experts(source.names()) else source
