"""Models that cannot be served are refused at construction, with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from rotorquant import RotorQuantCache
from rotorquant.errors import UnsupportedModelError
from tests.rotorquant.models import gemma

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
        "odd heads": (LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=12)), "heads of 12 values"),
        "bidirectional": (gemma(use_bidirectional_attention="all"), "see each other"),
    }


@pytest.mark.parametrize(("model", "says"), _models().values(), ids=_models())
def test_the_reason_is_named(model: Any, says: str) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        RotorQuantCache(model)
