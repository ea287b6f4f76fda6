"""The Gemma 4 models that plans can be made for without a network, and where their files lie.

`known_models.json` holds what a plan reads of the published config.json files; the image tower of
E2B and E4B has transformers' default sizes there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "GGUF_METHOD",
    "KnownModel",
    "checkpoint_of",
    "full_name",
    "gguf_base",
    "known_model",
    "known_models",
]

_FILE = Path(__file__).with_suffix(".json")
_BEGINNING = "google/gemma-4-"
_SHORT = re.compile(r"(?:google/)?(?:gemma[-_ ]?4[-_: ]?)?(?P<size>e?\d+b(?:-a4b)?)(?:-it)?", re.I)
_QAT = "-qat-w4a16-ct"
_QAT_GGUF = "-qat-q4_0-gguf"
GGUF_METHOD = "gguf"
"""The `quant_method` that stands for GGUF files in a `quantization_config`."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One published model.

    Attributes:
        name: its hub id.
        config: what the plan reads of its config.json.
        has_qat: whether Google published quantization-aware 4-bit weights of it as safetensors;
            there are GGUF files of all.
    """

    name: str
    config: Mapping[str, Any]
    has_qat: bool

    @property
    def short_name(self) -> str:
        """What people type: `31b`, `26b-a4b`, `e4b`."""
        return self.name.removeprefix(_BEGINNING).removesuffix("-it").lower()

    @property
    def packed_repository(self) -> str:
        """The hub id of Google's quantization-aware 4-bit weights."""
        return self.name + (_QAT if self.has_qat else _QAT_GGUF)

    @property
    def repositories(self) -> tuple[str, ...]:
        """The hub ids under which Google has its weights."""
        return (self.name, self.name + _QAT, self.name + _QAT_GGUF)


@cache
def known_models() -> tuple[KnownModel, ...]:
    """The known models, the largest first; their file is read when this is first called."""
    entries = json.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(KnownModel(**entry) for entry in entries)


def full_name(text: str) -> str:
    """The hub id of a known model that `text` names: `12b`, `gemma4:12b`, `Gemma-4-12B-it`.

    Other texts come back as they are.
    """
    match = _SHORT.fullmatch(text.strip())
    word = match["size"].lower() if match else ""
    # Only one model has 26 billion parameters, and few remember how many of them a token takes
    word = "26b-a4b" if word == "26b" else word
    return next((model.name for model in known_models() if model.short_name == word), text)


def checkpoint_of(name: str, weights: str) -> str:
    """The hub id that `weights` of the model `name` are made from.

    Google's 4-bit weights serve 3 and 2 bits, too: less to download.
    """
    known = known_model(name)
    return known.packed_repository if known and weights in ("int4", "int3", "int2") else name


def gguf_base(name: str) -> str | None:
    """The hub id with the tokenizer and configuration of Google's GGUF files called `name`.

    None where `name` is no such id.
    """
    base = name.removesuffix(_QAT_GGUF)
    return base if base != name and known_model(base) else None


def known_model(name: str) -> KnownModel | None:
    """The model with that hub id; None where it is not in the list."""
    return next((model for model in known_models() if model.name == name), None)
