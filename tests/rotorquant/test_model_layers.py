"""Families of models: those that are served, and those that are refused, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
    T5ForConditionalGeneration,
)

from rotorquant import RotorQuantCache
from rotorquant.exceptions import UnsupportedModelError
from tests.rotorquant.models import SMALL_WINDOW, VOCABULARY, gemma, random_tokens

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def _models() -> dict[str, tuple[Any, str]]:
    t5 = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    oss = GptOssConfig(**SIZES, head_dim=16, num_local_experts=2, num_experts_per_tok=1)
    mamba = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1)
    return {
        "no model": (nn.Linear(2, 2), "no transformers model"),
        "encoder and decoder": (T5ForConditionalGeneration(t5), "an encoder and a decoder"),
        "no attention": (MambaForCausalLM(mamba), "cannot be served"),
        "soft-capped": (Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=16)), "soft-capped"),
        "sinks": (GptOssForCausalLM(oss), "sinks"),
        "one projection": (Phi3ForCausalLM(Phi3Config(**SIZES, pad_token_id=0)), "no separate key"),
        "odd heads": (LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=12)), "heads of 12 values"),
        "bidirectional": (gemma(use_bidirectional_attention="all"), "see each other"),
    }


@pytest.mark.parametrize(("model", "says"), _models().values(), ids=_models())
def test_the_reason_is_named(model: Any, says: str) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        RotorQuantCache(model)


FAMILY: dict[str, Any] = {
    **SIZES,
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 4,
    "initializer_range": 0.3,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
LAYERS = ["sliding_attention", "full_attention"] * 2
FAMILIES: dict[str, PretrainedConfig] = {
    "mistral": MistralConfig(**FAMILY, sliding_window=24),
    "mistral without a window": MistralConfig(**FAMILY, sliding_window=None),
    "mixtral": MixtralConfig(**FAMILY, num_local_experts=2, sliding_window=None),
    "qwen2": Qwen2Config(**FAMILY, use_sliding_window=True, sliding_window=24, max_window_layers=2),
    "qwen3": Qwen3Config(**FAMILY),
    "gemma3": Gemma3TextConfig(**FAMILY, sliding_window=24, layer_types=LAYERS),
    "cohere": CohereConfig(**FAMILY),
}


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_give_what_they_give_with_the_stock_cache(name: str) -> None:
    """With padding; 16 bits to rounding, 8 bits nearly, both relative to the largest logit."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[name]).eval()
    tokens = random_tokens(2, 110)
    mask = torch.ones_like(tokens)
    mask[1, :17] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)

    def last_logits(cache: Any) -> torch.Tensor:
        for part in (slice(0, 80), slice(80, 100), slice(100, 101), slice(101, 110)):
            outputs = model(
                tokens[:, part],
                attention_mask=mask[:, : part.stop],
                position_ids=positions[:, part],
                past_key_values=cache,
            )
        return outputs.logits

    def answer(cache: Any) -> torch.Tensor:
        options = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False}
        return model.generate(tokens, past_key_values=cache, **options)

    expected, written = (run(DynamicCache(config=model.config)) for run in (last_logits, answer))
    largest = expected.abs().max()
    exact, packed = (RotorQuantCache(model, bits=bits, **SMALL_WINDOW) for bits in (16, 8))
    assert (last_logits(exact) - expected).abs().max() < 1e-5 * largest
    assert (last_logits(packed) - expected).abs().max() < 0.05 * largest
    assert packed.packed_tokens == (0 if name == "mistral" else 64)
    exact.reset()
    assert torch.equal(answer(exact), written)
