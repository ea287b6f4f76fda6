"""The tied latent: K rebuilt from V alone is the K that the model computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from rotorquant import RotorQuantCache
from rotorquant.anatomy import read_anatomy
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens

LAST_POSITION = 262_143


class _Taken(DynamicCache):
    """Keeps what the global layer hands over."""

    def update(
        self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        if layer_idx == 5:
            self.taken = key_states, value_states
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_k_follows_from_v_and_the_position(dtype: torch.dtype) -> None:
    model = gemma(dtype)
    positions = torch.tensor([[0, 1, 2, 777, 65_536, 131_072, LAST_POSITION]])
    cache = _Taken(config=model.config)
    model(random_tokens(1, 7), position_ids=positions, past_key_values=cache)
    key, value = cache.taken
    tie = read_anatomy(model).layers[5].tie
    assert tie is not None
    rebuilt = tie.rebuild(value, positions)
    assert rebuilt.dtype == dtype
    # w V is rounded once more in bfloat16, half a unit of 2^-8, and RoPE adds two such products.
    tolerance = 0.0 if dtype == torch.float32 else 2**-7 * float(key.abs().max())
    torch.testing.assert_close(rebuilt, key, rtol=0, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_16_bits_it_equals_storing_both_up_to_the_last_position(dtype: torch.dtype) -> None:
    model, tokens = gemma(dtype), random_tokens(1, 150)
    positions = torch.arange(LAST_POSITION - 149, LAST_POSITION + 1)[None]
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    chunks = []
    for part, places in zip(tokens.split(50, 1), positions.split(50, 1), strict=True):
        chunks.append(model(part, position_ids=places, past_key_values=cache).logits)
    assert cache.packed_tokens == 64
    given = torch.cat(chunks, 1).float()
    model.config._attn_implementation = "eager"
    stock = model(tokens, position_ids=positions).logits.float()
    if dtype == torch.float32:
        torch.testing.assert_close(given, stock, atol=2e-5, rtol=0)
        return
    exact = model.float()(tokens, position_ids=positions).logits
    # As near to the truth as the stock bfloat16 model is, give or take its own rounding.
    assert (given - exact).square().mean() < 1.5 * (stock - exact).square().mean()


def test_only_k_eq_v_layers_are_tied() -> None:
    kinds = [[layer.kind for layer in read_anatomy(model).layers] for model in (gemma(), llama())]
    assert kinds == [["sliding"] * 5 + ["tied"], ["split"] * 3]
    apart = read_anatomy(gemma(attention_k_eq_v=False)).layers
    assert [layer.kind for layer in apart] == ["sliding"] * 5 + ["split"]


def test_a_changing_rotary_embedding_is_not_tied() -> None:
    """Frequencies that depend on the length would rebuild other keys than were computed."""
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
    }
    layers = read_anatomy(gemma(rope_parameters=rope)).layers
    assert layers[5].kind == "split"
