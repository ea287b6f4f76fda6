"""Assisted decoding: passes that are undone, keys and values for a drafter, and the late check."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    DynamicCache,
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4TextConfig,
)

from rotorquant import RotorQuantCache
from rotorquant.config import RotorQuantConfig
from rotorquant.exceptions import CacheStateError
from rotorquant.layers.buffers import Meter
from rotorquant.layers.finite_check import FiniteCheck, LayerContext
from rotorquant.layers.sliding_layer import SlidingLayer
from tests.rotorquant.models import (
    SMALL_WINDOW,
    STRUCTURES,
    VOCABULARY,
    gemma,
    random_tokens,
    read,
)

WINDOW = 16


def answer(model: Any, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
    given: torch.Tensor = model.generate(
        tokens,
        do_sample=False,
        min_new_tokens=30,
        max_new_tokens=30,
        pad_token_id=0,
        **options,
    )
    return given


class CroppingCache(RotorQuantCache):
    """Counts the tokens that are taken back."""

    taken_back = 0

    def crop(self, tokens_to_remove: int) -> None:
        self.taken_back -= tokens_to_remove
        super().crop(tokens_to_remove)


@pytest.fixture(scope="module", params=STRUCTURES)
def model(request: pytest.FixtureRequest) -> Any:
    return STRUCTURES[request.param]()


@torch.no_grad()
@pytest.mark.parametrize("helper", ["prompt lookup", "assistant"])
def test_assisted_decoding_gives_the_tokens_of_plain_decoding(model: Any, helper: str) -> None:
    tokens = random_tokens(1, 22).repeat(1, 4)
    expected = answer(model, tokens, past_key_values=_stock(model))
    cache = CroppingCache(model, bits=16, **SMALL_WINDOW)
    options: dict[str, Any] = {"prompt_lookup_num_tokens": 6}
    if helper == "assistant":
        # 5.17 cannot draft with a stock sliding window that has been passed.
        assistant = gemma(sliding_window=512, intermediate_size=40)
        # A small random model is never sure of a token, and would draft none.
        assistant.generation_config.assistant_confidence_threshold = 0.0
        # More than the window of 16 tokens could not be taken back.
        assistant.generation_config.num_assistant_tokens = 6
        assistant.generation_config.num_assistant_tokens_schedule = "constant"
        options = {"assistant_model": assistant}
    assert torch.equal(answer(model, tokens, past_key_values=cache, **options), expected)
    # Otherwise nothing has been drafted in vain, and nothing shown.
    assert cache.taken_back > 0
    assert cache.get_seq_length() == expected.shape[1] - 1


@torch.no_grad()
@pytest.mark.parametrize("structure", ["tied", "split"])
def test_the_drafter_of_gemma_reads_the_cache(
    structure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = STRUCTURES[structure](), random_tokens(1, 70)
    drafter = _drafter(model, structure == "split", monkeypatch)
    expected = answer(model, tokens, past_key_values=_stock(model))
    cache = CroppingCache(model, bits=16, **SMALL_WINDOW)
    given = answer(model, tokens, past_key_values=cache, assistant_model=drafter)
    assert torch.equal(given, expected)
    assert cache.taken_back > 0


@torch.no_grad()
@pytest.mark.parametrize("structure", ["tied", "split", "shared"])
def test_what_is_shared_is_what_the_stock_cache_holds(structure: str) -> None:
    model, tokens = STRUCTURES[structure](), random_tokens(2, 90)
    stock = _stock(model)
    model(tokens, past_key_values=stock)
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    for part in tokens.split([50, 30, 10], dim=1):
        model(part, past_key_values=cache)
    shared = cache.shared_kv_states()
    for kind, index in (("sliding_attention", 1), ("full_attention", 2)):
        layer: Any = stock.layers[index]
        torch.testing.assert_close(shared[kind][0], layer.keys, atol=2e-5, rtol=0)
        torch.testing.assert_close(shared[kind][1], layer.values, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_slice_of_a_handle_follows_the_crop() -> None:
    model, tokens = gemma(), random_tokens(1, 80)
    cache = RotorQuantCache(model, bits=4, **SMALL_WINDOW)
    cache.activate_past_recording()
    seen: dict[int, tuple[Any, Any]] = {}
    update = cache.update

    def listen(key: Any, value: Any, index: int, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        seen[index] = update(key, value, index, *args, **kwargs)
        return seen[index]

    cache.update = listen  # type: ignore[method-assign, assignment]
    model(tokens, past_key_values=cache)
    model(tokens[:, :5], past_key_values=cache)
    cache.crop(-3)
    shared = cache.shared_kv_states()
    for index, kind in ((1, "sliding_attention"), (2, "full_attention")):
        for handle, expected in zip(seen[index], shared[kind], strict=True):
            assert torch.equal(handle[:, :, :999, :], expected)
    assert shared["full_attention"][0].shape[2] == 82
    assert shared["sliding_attention"][0].shape[2] == WINDOW - 1


def _layer(sliding_bits: int = 16) -> SlidingLayer:
    context = LayerContext(lambda: True, Meter(), FiniteCheck())
    return SlidingLayer(RotorQuantConfig(sliding_bits=sliding_bits), WINDOW, context)


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 3 * WINDOW), st.integers(0, WINDOW)), min_size=1, max_size=8
    )
)
def test_a_recording_ring_holds_what_a_list_would(steps: list[tuple[int, int]]) -> None:
    layer, sequence = _layer(), torch.zeros(1, 2, 0, 8)
    layer.activate_past_recording()
    for number, (tokens, back) in enumerate(steps):
        chunk = torch.full((1, 2, tokens, 8), float(number))
        chunk += torch.arange(tokens)[:, None] / 100
        layer.update(chunk, -chunk)
        sequence = torch.cat((sequence, chunk), dim=2)
        kept = sequence.shape[2] - min(back, tokens)
        sequence = sequence[:, :, :kept]
        layer.crop_to(kept)
        key, value = layer.dense()
        assert torch.equal(key, sequence[:, :, max(0, kept - WINDOW + 1) :])
        assert torch.equal(value, -key)
    assert layer.nbytes == layer._context.meter.now
    ring = 2 * 2 * 8 * 4
    assert layer.nbytes <= (WINDOW + 64) * ring


@pytest.mark.parametrize("sliding_bits", [8, 16])
def test_several_passes_can_be_undone_by_one_crop(sliding_bits: int) -> None:
    """As an assistant does, which steps token by token before it learns what to drop."""
    layer, twin = _layer(sliding_bits), _layer(sliding_bits)
    tokens = torch.randn(1, 2, 60, 8, generator=torch.Generator().manual_seed(2))
    layer.activate_past_recording()
    for one in tokens.split([40, *[1] * 20], dim=2):
        layer.update(one, one)
    layer.crop(-WINDOW + 3)
    twin.update(tokens[:, :, :47], tokens[:, :, :47])
    assert all(torch.equal(a, b) for a, b in zip(layer.dense(), twin.dense(), strict=True))


def test_recording_keeps_a_window_at_most_and_refuses_beyond() -> None:
    layer = _layer()
    layer.activate_past_recording()
    tokens = torch.randn(1, 2, 500, 8)
    layer.update(tokens, tokens)
    ring = 2 * 2 * 8 * 4
    assert layer.nbytes == 2 * WINDOW * ring
    before = layer.dense()
    with pytest.raises(CacheStateError, match=r"mark\(\) and rewind\(\)"):
        layer.crop_to(500 - WINDOW - 2)
    assert all(torch.equal(a, b) for a, b in zip(layer.dense(), before, strict=True))
    layer.crop_to(500 - WINDOW)
    assert torch.equal(layer.dense()[0], tokens[:, :, 484 - WINDOW + 1 : 484])


def test_without_recording_nothing_is_kept() -> None:
    layer = _layer()
    layer.activate_past_recording()
    tokens = torch.randn(1, 2, 50, 8)
    layer.update(tokens, tokens)
    layer.record_past = False  # as transformers does when it hands a cache back
    layer.update(tokens, tokens)
    with pytest.raises(CacheStateError, match="are gone"):
        layer.crop_to(90)


def test_a_reset_ends_the_recording() -> None:
    model, tokens = gemma(), random_tokens(1, 60)
    cache = RotorQuantCache(model, statistics="none", **SMALL_WINDOW)
    cache.activate_past_recording()
    read(model, cache, tokens)
    recording = cache.nbytes
    cache.reset()
    read(model, cache, tokens)
    rings = 2 * WINDOW * 2 * 2 * 16 * 4
    assert recording - cache.nbytes == rings
    assert not any(layer.record_past for layer in cache._storing)


def _stock(model: Any) -> DynamicCache:
    config = model.config.get_text_config()
    config._attn_implementation = "eager"
    return DynamicCache(config=config)


def _drafter(model: Any, split: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A random Gemma 4 drafter of four layers on keys and values of `model`.

    Transformers 5.23 refuses a model all of whose layers are shared, and lets models without
    shared layers tell nothing; both are put right here.
    """
    modes = getattr(Gemma4TextConfig, "kv_sharing_modes", None)
    if modes is not None:

        def all_shared(self: Any) -> Any:
            count = self.num_hidden_layers
            return ["reuse"] * count if self.num_kv_shared_layers == count else modes.fget(self)

        monkeypatch.setattr(Gemma4TextConfig, "kv_sharing_modes", property(all_shared))
    for layer in model.model.layers[-2:]:
        layer.self_attn.store_full_length_kv = True
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 4,
        "layer_types": [*["sliding_attention"] * 3, "full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": None if split else 1,
        "head_dim": 16,
        "global_head_dim": 32,
        "attention_k_eq_v": not split,
        "sliding_window": WINDOW,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
    }
    text = Gemma4TextConfig(**fields)
    config = Gemma4AssistantConfig(text_config=text, backbone_hidden_size=32)
    torch.manual_seed(0)
    drafter = Gemma4AssistantForCausalLM(config).eval()
    drafter.generation_config.num_assistant_tokens = 4
    return drafter


def test_a_crop_may_be_a_tensor() -> None:
    """transformers 5.17 counts what was drafted in vain with one."""
    model = gemma()
    cache = RotorQuantCache(model)
    read(model, cache, random_tokens(1, 12))
    cache.crop(torch.tensor(-5))  # type: ignore[arg-type]
    assert cache.get_seq_length() == 7
    read(model, cache, random_tokens(1, 3))
    assert cache.get_seq_length() == 10
