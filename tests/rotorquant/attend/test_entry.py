"""Attention over packed tokens against transformers' eager attention over the same tokens unpacked.

One cache serves both: with `eager` it hands over dequantized K and V, and transformers builds its
own masks; then it goes back to its mark and the chunk runs again with `rotorquant`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from rotorquant import RotorQuantCache
from rotorquant.exceptions import CacheStateError, UnsupportedModelError
from tests.rotorquant.models import (
    IMAGE_TOKEN,
    SMALL_WINDOW,
    gemma,
    gemma_with_images,
    llama,
    picture,
    random_tokens,
)

MODELS = {"tied": gemma, "split": lambda: gemma(attention_k_eq_v=False), "llama": llama}


def both_ways(model: Any, cache: RotorQuantCache, **inputs: Any) -> tuple[Any, Any]:
    """Logits of one more chunk, eager first."""
    config, mark = model.config.get_text_config(), cache.mark()
    logits = []
    for name in ("eager", "rotorquant"):
        config._attn_implementation = name
        logits.append(model(**inputs, past_key_values=cache).logits)
        cache.rewind(mark)
    return logits[0], logits[1]


def both_ways_after_a_prompt(
    model: Any, cache: RotorQuantCache, chunks: Sequence[int], padding: int
) -> Iterator[tuple[Any, Any]]:
    """The same of each chunk of that many tokens behind 100, the first row padded on its left."""
    tokens = random_tokens(2, 100 + max(chunks))
    mask = torch.ones_like(tokens)
    mask[0, :padding] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)

    def inputs(low: int, high: int) -> dict[str, torch.Tensor]:
        return {
            "input_ids": tokens[:, low:high],
            "attention_mask": mask[:, :high],
            "position_ids": positions[:, low:high],
        }

    model(**inputs(0, 100), past_key_values=cache)
    for chunk in chunks:
        yield both_ways(model, cache, **inputs(100, 100 + chunk))


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8, 16])
@pytest.mark.parametrize("padding", [0, 29])
def test_packed_attention_is_eager_attention_over_the_dequantized_cache(
    kind: str, bits: int, padding: int
) -> None:
    model = MODELS[kind]()
    cache = RotorQuantCache(model, bits=bits, **SMALL_WINDOW)
    for eager, packed in both_ways_after_a_prompt(model, cache, (1, 21), padding):
        # Float32 rounding through up to six layers, logits of order 1.
        torch.testing.assert_close(packed, eager, atol=5e-5, rtol=0)


@torch.no_grad()
def test_so_it_is_for_a_picture_in_the_chunk() -> None:
    model = gemma_with_images()
    text = random_tokens(1, 100)
    soft = torch.full((1, 12), IMAGE_TOKEN)
    chunk = torch.cat((text[:, 80:84], torch.tensor([[9]]), soft, text[:, 84:90]), dim=1)
    types = torch.cat((torch.zeros(1, 80), (chunk == IMAGE_TOKEN).float()), dim=1).long()
    cache = RotorQuantCache(model, bits=4, **SMALL_WINDOW)
    model(text[:, :80], past_key_values=cache)
    eager, packed = both_ways(model, cache, input_ids=chunk, mm_token_type_ids=types, **picture(1))
    torch.testing.assert_close(packed, eager, atol=5e-5, rtol=0)


@torch.no_grad()
def test_other_caches_and_no_cache_stay_right_under_rotorquant_attention() -> None:
    model, tokens = gemma(), random_tokens(2, 60)
    mask = torch.ones_like(tokens)
    mask[1, :9] = 0
    model.config._attn_implementation = "eager"
    expected = model(tokens, attention_mask=mask).logits[:, 9:]
    RotorQuantCache(model)
    assert model.config._attn_implementation == "rotorquant"
    given = model(tokens, attention_mask=mask).logits[:, 9:]
    torch.testing.assert_close(given, expected, atol=2e-5, rtol=0)
    cache = DynamicCache(config=model.config)
    model(tokens[:, :40], attention_mask=mask[:, :40], past_key_values=cache)
    given = model(tokens[:, 40:], attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(given, expected[:, 31:], atol=2e-5, rtol=0)


@pytest.mark.parametrize("with_cache", [False, True])
def test_training_is_refused_and_a_pass_with_gradients_on_keeps_none(with_cache: bool) -> None:
    model, tokens = llama(), random_tokens(2, 60)
    cache = RotorQuantCache(model, bits=8, **SMALL_WINDOW)
    given: dict[str, Any] = {"past_key_values": cache} if with_cache else {"use_cache": False}
    logits = model(tokens, **given).logits
    with pytest.raises(UnsupportedModelError, match=r"no gradients; model.set_attn_implementation"):
        logits.sum().backward()
    model.set_attn_implementation("sdpa")
    model(tokens, use_cache=False).logits.sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0


def test_the_cache_of_another_model_says_so() -> None:
    cache = RotorQuantCache(llama())
    with pytest.raises(CacheStateError, match="the cache was made for another model"):
        gemma()(random_tokens(1, 20), past_key_values=cache)


def test_a_static_cache_is_refused() -> None:
    model = llama()
    RotorQuantCache(model)
    with pytest.raises(UnsupportedModelError, match="no static cache; model.set_attn"):
        model.generate(random_tokens(1, 5), cache_implementation="static", max_new_tokens=2)
