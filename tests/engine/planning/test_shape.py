"""Parameter counts and KV geometry against the modules that transformers builds."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.shape import KVLayers, Matrices, ModelShape
from rqchat.errors import ModelError
from tests.helpers import TINY_CONFIG, small_e_model


def _counts(config: Any) -> dict[str, int]:
    """Parameters and persistent buffers per group, the tied head once."""
    with torch.device("meta"):
        model = Gemma4ForConditionalGeneration(Gemma4Config(**copy.deepcopy(dict(config))))
    counts = dict.fromkeys(("linears", "embedding", "head", "norms", "vision", "audio"), 0)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        group = "linears" if tensor.ndim >= 2 else "norms"
        for part, its_group in (
            ("vision", "vision"),
            ("audio", "audio"),
            ("lm_head", "head"),
            ("embed_tokens", "embedding"),
        ):
            if part in name:
                group = its_group
                break
        counts[group] += tensor.numel()
    return counts


SMALL_E = small_e_model(TINY_CONFIG, hidden_size_per_layer_input=16, vocab_size_per_layer_input=200)


def _small_moe_model() -> dict[str, Any]:
    config = copy.deepcopy(TINY_CONFIG)
    config["text_config"] |= {
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 24,
    }
    return config


def _small_untied_model() -> dict[str, Any]:
    config = copy.deepcopy(TINY_CONFIG)
    config["tie_word_embeddings"] = False
    config["text_config"] |= {"attention_bias": True}
    del config["vision_config"]
    return config


def _silent_model() -> dict[str, Any]:
    """A config that leaves per-layer embeddings to transformers' defaults, which has them."""
    config = copy.deepcopy(TINY_CONFIG)
    for name in ("hidden_size_per_layer_input", "vocab_size_per_layer_input"):
        del config["text_config"][name]
    return config


@pytest.mark.parametrize(
    "config",
    [
        TINY_CONFIG,
        SMALL_E,
        _small_moe_model(),
        _silent_model(),
        *(model.config for model in known_models() if model.config["model_type"] == "gemma4"),
    ],
    ids=["tiny", "E", "MoE", "silent", "31B", "26B", "E4B", "E2B"],
)
def test_parameters_equal_the_modules(config: Any) -> None:
    shape = ModelShape.from_config(config)

    counts = _counts(config)

    assert {name: getattr(shape, name) for name in counts} == counts
    assert shape.parameters == sum(counts.values())


def test_an_own_head_and_biases_are_counted() -> None:
    config = _small_untied_model()
    shape = ModelShape.from_config(config)

    assert shape.parameters == sum(_counts(config).values())
    assert shape.head == shape.embedding == 271 * 64


def test_matrices_are_the_decoders_linears() -> None:
    config = _small_moe_model()
    with torch.device("meta"):
        model = Gemma4ForConditionalGeneration(Gemma4Config(**copy.deepcopy(config)))
    found = Counter(
        tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "language_model" in name and "router" not in name
    )

    shape = ModelShape.from_config(config)

    assert {(m.rows, m.columns): m.count for m in shape.matrices} == found
    # Four experts in each of six layers, of which a token reads two
    sizes = (2 * 24, 64), (64, 24)
    assert shape.experts == tuple(Matrices(*size, count=6 * 4, read=6 * 2) for size in sizes)
    assert (shape.routers, shape.top_experts) == (6 * 64 * 4, 2)


def test_the_31b_is_the_published_one() -> None:
    shape = ModelShape.from_config(known_models()[0].config)

    assert shape.parameters == 31_273_088_876  # 31.27 G, twice that is the 62.5 GB download
    assert shape.global_kv == KVLayers(layers=10, heads=4, head_dim=512, tied=True)
    assert shape.sliding_kv == KVLayers(layers=50, heads=16, head_dim=256)
    assert (shape.window, shape.max_context_tokens) == (1024, 262_144)


def test_layers_that_borrow_keys_store_none() -> None:
    shape = ModelShape.from_config(SMALL_E)

    assert shape.global_kv == KVLayers(layers=1, heads=2, head_dim=32)
    assert shape.sliding_kv == KVLayers(layers=5, heads=2, head_dim=16)


@pytest.mark.parametrize("config", [known_models()[0].config, SMALL_E], ids=["31B", "E"])
def test_a_config_saved_by_transformers_reads_the_same(config: Any) -> None:
    saved = json.loads(Gemma4Config(**copy.deepcopy(dict(config))).to_json_string())

    assert ModelShape.from_config(saved) == ModelShape.from_config(config)


def test_another_family_is_named() -> None:
    with pytest.raises(ModelError, match="'llama'.*Gemma 4"):
        ModelShape.from_config({"model_type": "llama", "hidden_size": 64})


@pytest.mark.parametrize("damage", [{"hidden_size": None}, {"layer_types": ["full_attention"]}])
def test_half_a_config_is_refused(damage: dict[str, Any]) -> None:
    config = copy.deepcopy(TINY_CONFIG)
    config["text_config"] |= damage

    with pytest.raises(ModelError, match="no whole Gemma 4 config"):
        ModelShape.from_config(config)


def _small_unified_model() -> dict[str, Any]:
    text = {
        key: value
        for key, value in TINY_CONFIG["text_config"].items()
        if key not in ("hidden_size_per_layer_input", "vocab_size_per_layer_input", "model_type")
    }
    return {
        "model_type": "gemma4_unified",
        "text_config": text,
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "mm_embed_dim": 32,
            "mm_posemb_size": 64,
            "output_proj_dims": 32,
        },
        "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 40},
    }


@pytest.mark.parametrize(
    "config",
    [
        _small_unified_model(),
        *(m.config for m in known_models() if m.config["model_type"] == "gemma4_unified"),
    ],
    ids=["small", "12B"],
)
def test_the_unified_model_is_counted(config: Any) -> None:
    unified = pytest.importorskip("transformers.models.gemma4_unified")
    with torch.device("meta"):
        model = unified.Gemma4UnifiedForConditionalGeneration(
            unified.Gemma4UnifiedConfig(**copy.deepcopy(dict(config)))
        )

    found = sum(
        tensor.numel() for name, tensor in model.state_dict().items() if name != "lm_head.weight"
    )
    assert ModelShape.from_config(config).parameters == found
