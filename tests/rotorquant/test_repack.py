"""Fewer bits for a cache that is in use, and what is deferred until it is packed."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from rotorquant import Bits, RotorQuantCache
from rotorquant.exceptions import CacheStateError, ConfigError
from rotorquant.layout import GlobalLayout, SlidingLayout, cache_bytes
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens


def read(model: Any, cache: Any, tokens: torch.Tensor, chunk: int = 50) -> torch.Tensor:
    with torch.no_grad():
        parts = [model(t, past_key_values=cache).logits for t in tokens.split(chunk, dim=1)]
    return torch.cat(parts, dim=1)


def filled(model: Any, length: int = 201, **options: Any) -> RotorQuantCache:
    cache = RotorQuantCache(model, **{**SMALL_WINDOW, **options})
    tokens = random_tokens(1, length)
    read(model, cache, tokens[:, :-1])
    read(model, cache, tokens[:, -1:])
    return cache


@pytest.mark.parametrize("bits", [6, 4, 3, 2])
def test_repacking_frees_the_memory_beyond_the_new_width(bits: int) -> None:
    model = gemma()
    cache = filled(model, bits=8, max_tokens=400)
    before = cache.nbytes
    cache.repack(bits)
    layer = GlobalLayout(1, 32, tied=True, bits=bits, value_bytes=4, **SMALL_WINDOW)
    assert cache.nbytes == cache_bytes(layer, 1, SlidingLayout(16, 2, 16, value_bytes=4), 2, 400)
    assert cache.nbytes < before
    assert cache.config.bits == bits


def test_the_old_rows_are_gone() -> None:
    """All live tensors, counted by their storages."""

    def live() -> int:
        gc.collect()
        storages = {
            item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
            for item in gc.get_objects()
            if type(item) is torch.Tensor
        }
        return sum(storages.values())

    cache = filled(gemma(), 3000, bits=8, max_tokens=4000)
    before, nbytes = live(), cache.nbytes
    cache.repack(2)
    freed = nbytes - cache.nbytes
    assert freed > 3900 * 24 - 4000  # 32 values of 6 bits less, for all but the exact tokens
    # Codecs of 8 and of 2 bits differ by less than 16 KB of tables.
    assert before - live() > freed - 16_384


@pytest.mark.parametrize("mode", ["planar", "aligned", "hadamard"])
@pytest.mark.parametrize("structure", [gemma, llama])
def test_generation_goes_on_about_as_with_the_new_width_from_the_start(
    mode: str, structure: Any
) -> None:
    model, more = structure(), random_tokens(1, 20, seed=4)
    exact = read(model, filled(model, bits=16), more)
    fresh = read(model, filled(model, bits=3, mode=mode), more)
    cache = filled(model, bits=8, mode=mode)
    cache.repack(3)
    again = read(model, cache, more)
    error, other = ((x - exact).square().mean().sqrt() for x in (again, fresh))
    # A code of a code: the errors of both steps, 3 bits and 8 bits, do little more than 3 alone.
    assert 0.5 * other < error < 1.5 * other


def test_a_stream_whose_width_stays_keeps_its_rows_to_the_bit() -> None:
    model = llama()
    cache = filled(model, bits=Bits(key=6, value=4))
    keys, values = (rows.clone() for rows in cache.shared_kv_states()["full_attention"])
    cache.repack(Bits(key=6, value=2))
    again = cache.shared_kv_states()["full_attention"]
    assert torch.equal(again[0], keys)
    assert not torch.equal(again[1], values)
    exact = cache.packed_tokens + SMALL_WINDOW["sink_tokens"]
    assert torch.equal(again[1][:, :, exact:], values[:, :, exact:])


def test_from_sixteen_bits_it_is_as_if_packed_at_once() -> None:
    """Nothing has been lost at 16 bits, so the rows are those of a cache of 4."""
    model = llama()
    cache = filled(model, bits=16, statistics="none")
    cache.repack(4)
    with torch.no_grad():  # the first layer sees the same tokens in both
        packed = filled(model, bits=4, statistics="none")
    expected, again = packed._storing[0], cache._storing[0]
    for one, two in zip(expected.dense(), again.dense(), strict=True):
        assert torch.equal(one, two)


def test_a_mark_leads_back_to_its_tokens_in_the_new_width() -> None:
    model, more = gemma(), random_tokens(1, 60, seed=5)
    cache = filled(model, bits=8)
    mark = cache.mark()
    read(model, cache, more)
    cache.repack(4)
    cache.rewind(mark)
    assert cache.get_seq_length() == mark.length
    first = read(model, cache, more)
    cache.rewind(mark)
    assert torch.equal(read(model, cache, more), first)


def test_an_empty_cache_takes_the_new_width() -> None:
    model = gemma()
    cache = RotorQuantCache(model, bits=8, **SMALL_WINDOW)
    cache.repack(3)
    tokens = random_tokens(1, 150)
    fresh = RotorQuantCache(model, bits=3, **SMALL_WINDOW)
    assert torch.equal(read(model, cache, tokens), read(model, fresh, tokens))


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        (6, r"repack\(6\): the cache has bits=4"),
        (Bits(2, 2, 5), "only fewer bits are possible"),
        (7, "bits is 7; allowed are"),
    ],
)
def test_more_bits_are_refused_and_nothing_changes(bits: Any, says: str) -> None:
    model, more = gemma(), random_tokens(1, 20, seed=6)
    cache = filled(model, bits=4)
    with pytest.raises(ConfigError, match=says):
        cache.repack(bits)
    assert cache.config.bits == 4
    assert torch.equal(read(model, cache, more), read(model, filled(model, bits=4), more))


def test_widths_of_other_layers_do_not_matter() -> None:
    """A tied model stores no keys and values apart, so their widths may be anything."""
    cache = filled(gemma(), bits=Bits(2, 2, 6))
    cache.repack(Bits(8, 8, 4))
    assert cache.config.bits == Bits(8, 8, 4)


def test_keys_and_values_apart_take_their_own_bytes() -> None:
    cache = filled(llama(), bits=Bits(key=6, value=3), max_tokens=400)
    exact = GlobalLayout(2, 16, bits=4, value_bytes=4, **SMALL_WINDOW).exact_bytes
    tokens = 400 - 8 - 24
    packed = 2 * (16 * 6 // 8 + 2) + 2 * (16 * 3 // 8 + 2)
    assert cache.nbytes == 3 * (exact + tokens * packed)


def test_a_deferred_prompt_is_read_exactly_and_packed_by_the_first_step() -> None:
    model, tokens = gemma(), random_tokens(1, 160)
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        expected = model(tokens).logits
    cache = RotorQuantCache(model, bits=2, defer="prompt", **SMALL_WINDOW)
    torch.testing.assert_close(read(model, cache, tokens), expected, atol=1e-4, rtol=0)
    assert cache.packed_tokens == 0
    full = cache.nbytes
    read(model, cache, tokens[:, :1])
    assert cache.packed_tokens == 128  # whole pages of 160 - 8 - 24
    assert cache.nbytes < full <= cache.peak_nbytes


def test_deferring_the_prompt_costs_its_peak() -> None:
    """4 bits: the window's peak is near what is kept, the prompt's is that of a bf16 cache."""
    model = gemma(torch.bfloat16)
    peaks = {}
    for defer in ("none", "window", "prompt"):
        cache = filled(model, 4001, bits=4, defer=defer)
        peaks[defer] = cache.peak_nbytes
        assert cache.nbytes < 4001 * (18 + 4) * 1.6 + 40_000
    assert peaks["none"] <= peaks["window"] < 0.6 * peaks["prompt"]
    assert peaks["prompt"] > 4000 * 32 * 2


def test_without_deferral_only_the_sink_and_the_chunk_are_exact() -> None:
    model, tokens = gemma(), random_tokens(1, 161)
    cache = RotorQuantCache(model, bits=4, defer="none", **SMALL_WINDOW)
    read(model, cache, tokens[:, :160], chunk=40)
    assert cache.packed_tokens == 120 - 8
    read(model, cache, tokens[:, 160:])
    assert cache.packed_tokens == 160 - 8


@pytest.mark.parametrize("defer", ["none", "window", "prompt"])
def test_sixteen_bits_hide_every_deferral(defer: str) -> None:
    model, tokens = llama(), random_tokens(1, 120)
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        expected = model(tokens).logits
    cache = RotorQuantCache(model, bits=16, defer=defer, **SMALL_WINDOW)
    given = torch.cat(
        [read(model, cache, t, 1 + 20 * (i < 5)) for i, t in enumerate(tokens.split(20, 1))], 1
    )
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)


def test_an_unknown_deferral_is_named() -> None:
    with pytest.raises(ConfigError, match="defer is 'later'; allowed are none, window, prompt"):
        RotorQuantCache(gemma(), defer="later")


def test_marks_may_live_elsewhere() -> None:
    model, more = gemma(), random_tokens(1, 40, seed=7)
    cache = filled(model)
    mark = cache.mark(device="cpu")
    expected = read(model, cache, more)
    cache.rewind(mark)
    assert torch.equal(read(model, cache, more), expected)
    # A device without storage shows where the copies went, and that they are all that moved.
    away = cache.mark(device="meta")
    read(model, cache, more)
    assert {rows.device.type for rows in away.copies} == {"meta"}
    assert away.nbytes == sum(rows.nbytes for rows in away.copies) > 0


def test_no_keys_to_share_before_the_first_token() -> None:
    with pytest.raises(CacheStateError, match="an empty cache"):
        RotorQuantCache(gemma()).shared_kv_states()
