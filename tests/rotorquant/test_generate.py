"""`generate` and chunked prefill: at 16 bits the cache must be invisible."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from rotorquant import RotorQuantCache
from tests.rotorquant.models import (
    IMAGE_TOKEN,
    SMALL_WINDOW,
    STRUCTURES,
    gemma,
    gemma_with_images,
    picture,
    random_tokens,
)


@pytest.fixture(scope="module", params=STRUCTURES)
def model(request: pytest.FixtureRequest) -> Any:
    return STRUCTURES[request.param]()


def reference_cache(model: Any) -> DynamicCache:
    """The stock cache with stock attention."""
    config = model.config.get_text_config()
    config._attn_implementation = "eager"
    return DynamicCache(config=config)


def answer(model: Any, cache: Any, tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
    given: torch.Tensor = model.generate(
        tokens,
        past_key_values=cache,
        do_sample=False,
        min_new_tokens=30,
        max_new_tokens=30,
        pad_token_id=0,
        **inputs,
    )
    return given


@torch.no_grad()
def test_sixteen_bits_give_the_same_greedy_tokens(model: Any) -> None:
    tokens = random_tokens(2, 110)
    expected = answer(model, reference_cache(model), tokens)
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    assert torch.equal(answer(model, cache, tokens), expected)
    assert cache.packed_tokens > 90
    assert cache.get_seq_length() == expected.shape[1] - 1


@torch.no_grad()
def test_left_padding_changes_nothing(model: Any) -> None:
    tokens = random_tokens(2, 110)
    mask = torch.ones_like(tokens)
    mask[0, :37] = tokens[0, :37] = 0
    expected = answer(model, reference_cache(model), tokens, attention_mask=mask)
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    assert torch.equal(answer(model, cache, tokens, attention_mask=mask), expected)
    alone = answer(model, RotorQuantCache(model, bits=16, **SMALL_WINDOW), tokens[:1, 37:])
    assert torch.equal(alone[0], expected[0, 37:])


@torch.no_grad()
@pytest.mark.parametrize("sliding_bits", [16, 8])
def test_chunks_of_any_length_give_the_logits_of_one_pass(model: Any, sliding_bits: int) -> None:
    tokens = random_tokens(1, 120)
    model.config.get_text_config()._attn_implementation = "eager"
    expected = model(tokens).logits
    cache = RotorQuantCache(model, bits=16, sliding_bits=sliding_bits, **SMALL_WINDOW)
    cuts = [0, 3, 4, 40, 57, 119, 120]
    parts = [
        model(tokens[:, low:high], past_key_values=cache).logits
        for low, high in zip(cuts, cuts[1:], strict=False)
    ]
    error = (torch.cat(parts, 1) - expected).abs()
    # Float32 rounding that a random net amplifies; int8 steps are 1 / 127 of a vector's largest.
    assert error.max() < 1e-4 if sliding_bits == 16 else 0 < error.mean() < 0.02 * expected.std()


@torch.no_grad()
def test_beam_search_follows_its_beams(model: Any) -> None:
    tokens = random_tokens(2, 60)
    beams = {"num_beams": 3, "max_new_tokens": 20, "min_new_tokens": 20, "pad_token_id": 0}
    stock = reference_cache(model)
    expected = model.generate(tokens, past_key_values=stock, do_sample=False, **beams)
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    given = model.generate(tokens, past_key_values=cache, do_sample=False, **beams)
    assert torch.equal(given, expected)


@torch.no_grad()
def test_sampling_with_a_seed_draws_the_same_tokens(model: Any) -> None:
    tokens = random_tokens(1, 70)
    sampling = {"do_sample": True, "max_new_tokens": 20, "min_new_tokens": 20, "pad_token_id": 0}
    torch.manual_seed(3)
    expected = model.generate(tokens, past_key_values=reference_cache(model), **sampling)
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    torch.manual_seed(3)
    assert torch.equal(model.generate(tokens, past_key_values=cache, **sampling), expected)


@torch.no_grad()
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_packed_logits_stay_near_and_gain_with_every_bit(bits: int) -> None:
    model, tokens = gemma(), random_tokens(2, 160)
    model.config._attn_implementation = "eager"
    expected = model(tokens).logits[:, 80:]
    cache = RotorQuantCache(model, bits=bits, statistics="none", **SMALL_WINDOW)
    logits = [model(part, past_key_values=cache).logits for part in tokens.split(40, dim=1)]
    error = (torch.cat(logits, 1)[:, 80:] - expected).square().mean().sqrt() / expected.std()
    # Root of the code's own error (0.12 ... 4e-5); most of the output passes by the global layer.
    expected_error = {2: 0.343, 3: 0.186, 4: 0.0975, 5: 0.05, 6: 0.0254, 8: 0.0064}[bits]
    assert 0.02 * expected_error < error < expected_error
    assert cache.packed_tokens >= 80


@torch.no_grad()
def test_a_conversation_with_pictures_gives_the_same_greedy_tokens() -> None:
    model = gemma_with_images()
    tokens, types = _two_pictures()
    inputs = {**picture(2), "mm_token_type_ids": types}
    expected = answer(model, reference_cache(model), tokens, **inputs)
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    assert torch.equal(answer(model, cache, tokens, **inputs), expected)
    assert model.config.vision_config._attn_implementation != "rotorquant"


@torch.no_grad()
def test_a_picture_sees_itself_in_both_directions_chunk_by_chunk() -> None:
    model = gemma_with_images()
    tokens, types = _two_pictures()
    model.config.text_config._attn_implementation = "eager"
    expected = model(tokens, **picture(2), mm_token_type_ids=types).logits
    causal = model(tokens, **picture(2)).logits
    assert (expected - causal).abs().max() > 0.1
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    without_cache = model(tokens, **picture(2), mm_token_type_ids=types).logits
    torch.testing.assert_close(without_cache, expected, atol=2e-5, rtol=0)
    parts, pixels = [], picture(2)
    for low, high, shown in ((0, 41, None), (41, 60, 0), (60, 84, None), (84, 128, 1)):
        inputs: dict[str, Any] = (
            {} if shown is None else {k: v[shown : shown + 1] for k, v in pixels.items()}
        )
        inputs |= {"mm_token_type_ids": types[:, :high], "past_key_values": cache}
        parts.append(model(tokens[:, low:high], **inputs).logits)
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=2e-5, rtol=0)


def _two_pictures() -> tuple[torch.Tensor, torch.Tensor]:
    soft = torch.full((1, 12), IMAGE_TOKEN)
    begin, end = torch.tensor([[9]]), torch.tensor([[11]])
    text = random_tokens(1, 100)
    pieces = [text[:, :40], begin, soft, end, text[:, 40:70], begin, soft, end, text[:, 70:]]
    tokens = torch.cat(pieces, dim=1)
    return tokens, (tokens == IMAGE_TOKEN).long()
