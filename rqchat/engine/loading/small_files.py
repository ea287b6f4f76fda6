"""What a model brings besides weights: its tokenizer, pictures' processor and manner of answering.

Each is read by a parser of others, and each has a sentence of its own for what that raises.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from rqchat.engine.foreign import border
from rqchat.engine.generation.chat_template import ChatTemplate
from rqchat.engine.generation.control_tokens import stop_tokens, suppressed_tokens
from rqchat.engine.loading.patches_12b import MergedPatches
from rqchat.engine.model_files.gguf.gguf_config import gguf_generation, soft_tokens
from rqchat.engine.model_files.gguf.gguf_files import GgufFiles, gguf_files
from rqchat.engine.model_files.gguf.gguf_tokenizer import gguf_tokenizer, special_tokens
from rqchat.engine.model_files.json_object import read_object
from rqchat.errors import ModelError

__all__ = ["SmallFiles", "read_small_files"]

_GENERATION = "generation_config.json"
_MOST_SOFT_TOKENS = 2**16  # of a picture; Gemma 4's largest budget is 1,120


class SmallFiles(NamedTuple):
    """What was read.

    Attributes:
        tokenizer: the fast tokenizer.
        template: its chat template.
        image_processor: on pillow.
        stop_ids: tokens that end an answer.
        suppressed_ids: tokens that are never drawn.
        temperature: of answers, where nobody asks for another.
    """

    tokenizer: Any
    template: ChatTemplate
    image_processor: Any
    stop_ids: frozenset[int]
    suppressed_ids: frozenset[int]
    temperature: float


def read_small_files(place: Path, config: Mapping[str, Any], name: str) -> SmallFiles:
    """Reads the small files in a folder, or what a GGUF file has instead of them.

    Args:
        place: holds them.
        config: the model's config.json.
        name: what errors call the model.

    Raises:
        ModelError: one is missing or damaged.
    """
    if place.is_file():
        files = gguf_files(place, name)
        tokenizer, manner = _gguf_tokenizer(files, name), gguf_generation(files)
        vision = config.get("vision_config") or {}
        processor: Any = transformers.Gemma4ImageProcessorPil(
            max_soft_tokens=soft_tokens(files),
            **{key: vision[key] for key in ("patch_size", "pooling_kernel_size") if key in vision},
        )
    else:
        tokenizer = _tokenizer(place, name)
        with _reading("image processor (preprocessor_config.json)", name):
            processor = transformers.Gemma4ImageProcessorPil.from_pretrained(
                place, local_files_only=True, trust_remote_code=False
            )
        has_manner = (place / _GENERATION).is_file()
        manner = read_object(place / _GENERATION, name) if has_manner else {}
    with _reading("image processor (preprocessor_config.json)", name):
        image_processor = _image_processor(processor, config)
    template = ChatTemplate(tokenizer)
    with _reading("end of an answer", name):
        given = {
            _GENERATION: manner,
            "config.json": config,
            "config.json's text_config": config["text_config"],
        }
        known = range(config["text_config"]["vocab_size"])
        # What lies beyond the vocabulary can never be drawn
        stops = stop_tokens(given, tokenizer, template).intersection(known)
    with _reading(_GENERATION, name):
        suppressed = suppressed_tokens(given, tokenizer, stops).intersection(known)
        temperature = _temperature(manner)
    return SmallFiles(tokenizer, template, image_processor, stops, suppressed, temperature)


def _reading(what: str, name: str) -> Any:
    return border(
        lambda cause: ModelError(f"the {what} of {name} cannot be read: {cause}; download it again")
    )


def _tokenizer(folder: Path, name: str) -> Any:
    with _reading("tokenizer", name):
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ValueError("there is no tokenizer.json")
    return tokenizer


def _gguf_tokenizer(files: GgufFiles, name: str) -> Any:
    backend = gguf_tokenizer(files, name)
    with _reading("tokenizer", name):
        tokenizer: Any = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, **special_tokens(files, backend)
        )
        tokenizer.chat_template = files.fields.get("tokenizer.chat_template")
    return tokenizer


def _image_processor(processor: Any, config: Mapping[str, Any]) -> Any:
    budget = processor.max_soft_tokens
    if type(budget) is not int or not 0 < budget <= _MOST_SOFT_TOKENS:
        raise ValueError(f"max_soft_tokens is {reprlib.repr(budget)}")
    if config.get("model_type") == "gemma4_unified":
        return MergedPatches(processor, processor.pooling_kernel_size)
    return processor


def _temperature(manner: Mapping[str, Any]) -> float:
    """Google's files ask for sampling; a file that asks for nothing gets Google's value."""
    if manner.get("do_sample") is False:
        return 0.0
    given = manner.get("temperature")
    if given is None:
        return 1.0
    if type(given) not in (int, float) or not math.isfinite(given) or given < 0:
        raise ValueError(f"temperature is {reprlib.repr(given)}; it takes 0 and numbers above")
    return float(given)
