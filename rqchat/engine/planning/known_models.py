"""The Gemma 4 models that plans can be made for without a network, and where their files lie.

Sizes from the published config.json files; the image tower of E2B and E4B has transformers'
default sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rqchat.engine.planning.shape import GEMMA4_31B_CONFIG

__all__ = ["GGUF_METHOD", "KNOWN_MODELS", "KnownModel", "checkpoint_of", "gguf_base", "known_model"]

_QAT = "-qat-w4a16-ct"
_QAT_GGUF = "-qat-q4_0-gguf"
GGUF_METHOD = "gguf"
"""What stands for GGUF files in a `quantization_config`."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One published model.

    Attributes:
        name: its hub id.
        config: what the plan reads of its config.json.
        has_qat: whether Google published quantization-aware 4-bit weights of it.
    """

    name: str
    config: Mapping[str, Any]
    has_qat: bool = True


def checkpoint_of(name: str, weights: str) -> str:
    """The hub id that `weights` of the model `name` are made from.

    Google's 4-bit weights, where there are any, serve 2 bits, too: less to download.
    """
    known = known_model(name)
    return name + _QAT if known and known.has_qat and weights in ("int4", "int2") else name


def gguf_base(name: str) -> str | None:
    """The hub id with the tokenizer and configuration of Google's GGUF files called `name`.

    None where `name` is no such id.
    """
    base = name.removesuffix(_QAT_GGUF)
    return base if base != name and known_model(base) else None


def known_model(name: str) -> KnownModel | None:
    """The model with that hub id; None where it is not in the list."""
    return next((model for model in KNOWN_MODELS if model.name == name), None)


def _text(**sizes: Any) -> dict[str, Any]:
    return {
        "model_type": "gemma4_text",
        "vocab_size": 262_144,
        "head_dim": 256,
        "global_head_dim": 512,
        "final_logit_softcapping": 30.0,
        **sizes,
    }


_SMALL_TOWERS: Mapping[str, Any] = {
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64,
        "use_clipped_linears": True,
    },
    "audio_config": {"model_type": "gemma4_audio"},
}

_26B: Mapping[str, Any] = {
    "model_type": "gemma4",
    "tie_word_embeddings": True,
    "text_config": _text(
        hidden_size=2816,
        intermediate_size=2112,
        num_hidden_layers=30,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_global_key_value_heads=2,
        attention_k_eq_v=True,
        sliding_window=1024,
        max_position_embeddings=262_144,
        enable_moe_block=True,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
        hidden_size_per_layer_input=0,
    ),
    "vision_config": GEMMA4_31B_CONFIG["vision_config"],
}

_12B: Mapping[str, Any] = {
    "model_type": "gemma4_unified",
    "tie_word_embeddings": True,
    "text_config": _text(
        model_type="gemma4_unified_text",
        hidden_size=3840,
        intermediate_size=15_360,
        num_hidden_layers=48,
        num_attention_heads=16,
        num_key_value_heads=8,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        sliding_window=1024,
        max_position_embeddings=262_144,
    ),
    "vision_config": {"model_type": "gemma4_unified_vision", "mm_embed_dim": 3840},
    "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 640},
}

_E4B: Mapping[str, Any] = {
    "model_type": "gemma4",
    "tie_word_embeddings": True,
    "text_config": _text(
        hidden_size=2560,
        intermediate_size=10_240,
        num_hidden_layers=42,
        num_attention_heads=8,
        num_key_value_heads=2,
        num_kv_shared_layers=18,
        hidden_size_per_layer_input=256,
        sliding_window=512,
        max_position_embeddings=131_072,
    ),
    **_SMALL_TOWERS,
}

_E2B: Mapping[str, Any] = {
    "model_type": "gemma4",
    "tie_word_embeddings": True,
    "text_config": _text(
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=35,
        layer_types=[*["sliding_attention"] * 4, "full_attention"] * 7,
        num_attention_heads=8,
        num_key_value_heads=1,
        num_kv_shared_layers=20,
        hidden_size_per_layer_input=256,
        use_double_wide_mlp=True,
        sliding_window=512,
        max_position_embeddings=131_072,
    ),
    **_SMALL_TOWERS,
}

KNOWN_MODELS = (
    KnownModel("google/gemma-4-31B-it", GEMMA4_31B_CONFIG),
    KnownModel("google/gemma-4-26B-A4B-it", _26B, has_qat=False),
    KnownModel("google/gemma-4-12B-it", _12B),
    KnownModel("google/gemma-4-E4B-it", _E4B),
    KnownModel("google/gemma-4-E2B-it", _E2B),
)
