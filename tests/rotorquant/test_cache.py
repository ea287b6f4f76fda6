"""The contract of every kind of cache: modes, widths, storage and deferral, on both structures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rotorquant
from rotorquant import Bits, RotorQuantCache
from rotorquant.config import BLOCK_BITS, DEFERS, KV_BITS, MODES
from rotorquant.exceptions import CacheStateError, CapacityError, NonFiniteError
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens

MODELS = {"tied": gemma, "split": llama}
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"{mode}, 4 bits": {"mode": mode} for mode in MODES},
    **{mode: {"mode": mode, "bits": bits} for mode, bits in BLOCK_BITS.items()},
    **{f"{bits} bits": {"bits": bits} for bits in KV_BITS if bits != 4},
    **{f"packs {defer}": {"defer": defer} for defer in DEFERS if defer != "window"},
    "widths apart": {"bits": Bits(key=8, value=3, latent=6)},
    "keys as they are": {"bits": Bits(key=16, value=4, latent=5)},
    "values as they are": {"bits": Bits(key=4, value=16, latent=16)},
    "int8 windows": {"sliding_bits": 8},
    "fixed capacity": {"max_tokens": 160},
    "other classes": {},
}
CLASSES = [
    getattr(rotorquant, name)
    for name in rotorquant.__all__
    if name.endswith("Cache") and name != "RotorQuantCache"
]
KINDS: list[tuple[type[RotorQuantCache], str]] = [
    *((RotorQuantCache, options) for options in OPTIONS if options != "other classes"),
    *((other, "other classes") for other in CLASSES),
]
Make = Callable[[], RotorQuantCache]

BOTH = {"aligned, 4 bits", "planar, 4 bits", "widths apart", "keys as they are"}
BOTH |= {"values as they are", "packs prompt"}
PAIRS = [
    (structure, *kind)
    for structure in MODELS
    for kind in KINDS
    if structure == "tied" or kind[1] in BOTH
]
# One of each form of storage: by it alone, not by its codes, some calls differ
SAME_STORAGE = {f"{mode}, 4 bits" for mode in MODES if mode != "aligned"} | {*BLOCK_BITS}
SAME_STORAGE |= {f"{bits} bits" for bits in (2, 3, 5, 6, 8)}


def name_of(pair: tuple[str, type[RotorQuantCache], str]) -> str:
    return f"{pair[0]} {pair[1].__name__} {pair[2]}"


each_storage = pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if pair[2] not in SAME_STORAGE], indirect=True, ids=name_of
)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: build() for name, build in MODELS.items()}


@pytest.fixture(params=PAIRS, ids=name_of)
def pair(request: pytest.FixtureRequest) -> tuple[str, type[RotorQuantCache], str]:
    chosen: tuple[str, type[RotorQuantCache], str] = request.param
    return chosen


@pytest.fixture
def model(pair: tuple[str, Any, str], models: dict[str, Any]) -> Any:
    return models[pair[0]]


@pytest.fixture
def make(pair: tuple[str, type[RotorQuantCache], str], model: Any) -> Make:
    """Makes a cache of one kind, always the same."""
    _, kind, options = pair
    return lambda: kind(model, **SMALL_WINDOW, **OPTIONS[options])


def read(model: Any, cache: Any, *chunks: torch.Tensor) -> torch.Tensor:
    """Logits of one pass per chunk."""
    with torch.no_grad():
        parts = [model(chunk, past_key_values=cache).logits for chunk in chunks]
    return torch.cat(parts, dim=1)


def start(model: Any, make: Make) -> RotorQuantCache:
    """A cache that has read 100 tokens and stepped, so that some are packed in every kind."""
    cache, tokens = make(), random_tokens(2, 101)
    read(model, cache, tokens[:, :60], tokens[:, 60:100], tokens[:, 100:])
    assert cache.packed_tokens >= 60
    return cache


CONTINUATION = random_tokens(2, 30, seed=1)[:, :9].split([4, 1, 1, 3], dim=1)


@each_storage
def test_generate_works_as_the_model_cards_show(model: Any, make: Make) -> None:
    tokens = random_tokens(2, 70)
    cache = make()
    options = {"do_sample": False, "min_new_tokens": 4, "max_new_tokens": 4, "pad_token_id": 0}
    given = model.generate(tokens, past_key_values=cache, **options)
    assert given.shape == (2, 74)
    assert cache.get_seq_length() == 73
    assert cache.packed_tokens > 0


def test_own_attention_and_dequantized_tensors_agree(model: Any, make: Make) -> None:
    views = read(model, start(model, make), *CONTINUATION)
    cache = start(model, make)
    config = model.config.get_text_config()
    config._attn_implementation = "eager"
    dense = read(model, cache, *CONTINUATION)
    config._attn_implementation = "rotorquant"
    # Float32 rounding on both sides, by which now and then a code becomes its neighbour.
    torch.testing.assert_close(views, dense, atol=5e-3, rtol=0)
    assert views.std() > 0.5


def test_rewinding_and_loading_go_on_to_the_same_bits(
    model: Any, make: Make, tmp_path: Path
) -> None:
    cache = start(model, make)
    mark = cache.mark()
    cache.save(tmp_path / "cache.safetensors")
    expected = read(model, cache, *CONTINUATION)
    cache.rewind(mark)
    assert torch.equal(read(model, cache, *CONTINUATION), expected)
    loaded = type(cache).load(tmp_path / "cache.safetensors", model)
    assert loaded.config == cache.config
    assert torch.equal(read(model, loaded, *CONTINUATION), expected)


@each_storage
def test_bytes_are_counted_as_they_come_and_go(model: Any, make: Make) -> None:
    cache = make()
    assert cache.nbytes == cache.peak_nbytes == 0
    read(model, cache, *random_tokens(2, 101).split([60, 40, 1], dim=1))
    peak = cache.peak_nbytes
    assert cache._meter.now == cache.nbytes <= peak
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([0, 2]))
    assert cache._meter.now == cache.nbytes
    cache.reset()
    assert cache._meter.now == cache.nbytes == 0
    assert cache.peak_nbytes >= peak


@each_storage
def test_a_crop_leaves_what_a_shorter_prompt_would(model: Any, make: Make) -> None:
    """Within the exact tokens, where nothing has been packed differently."""
    cache, shorter = start(model, make), start(model, make)
    more = random_tokens(2, 3, seed=2)
    cache.activate_past_recording()
    read(model, shorter, more[:, :1])
    read(model, cache, more)
    cache.crop(-2)
    assert cache.get_seq_length() == shorter.get_seq_length() == 102
    step = random_tokens(2, 1, seed=3)
    # Float32 sums in another order
    torch.testing.assert_close(
        read(model, cache, step), read(model, shorter, step), atol=3e-5, rtol=0
    )


@each_storage
def test_rows_of_the_batch_are_their_own(model: Any, make: Make) -> None:
    cache = start(model, make)
    mark = cache.mark()
    expected = read(model, cache, CONTINUATION[0])
    cache.rewind(mark)
    cache.reorder_cache(torch.tensor([1, 0]))
    swapped = read(model, cache, CONTINUATION[0].flip(0)).flip(0)
    torch.testing.assert_close(swapped, expected, atol=2e-5, rtol=0)


@each_storage
def test_bad_calls_are_refused(model: Any, make: Make) -> None:
    cache = start(model, make)
    with pytest.raises(CacheStateError, match="3 rows and the cache holds 2"):
        read(model, cache, random_tokens(3, 2))
    cache.reset()
    read(model, cache, random_tokens(2, 10))
    weight = model.model.layers[0].self_attn.k_proj.weight
    healthy = weight.detach().clone()
    weight.data[0, 0] = torch.nan
    with pytest.raises(NonFiniteError):
        read(model, cache, random_tokens(2, 5))
    weight.data.copy_(healthy)
    cache.reset()
    if cache.config.max_tokens is not None:
        with pytest.raises(CapacityError):
            read(model, cache, random_tokens(2, cache.config.max_tokens + 1))


@each_storage
def test_chunks_of_another_model_are_refused(make: Make, model: Any) -> None:
    cache = start(model, make)
    vectors = torch.randn(2, 2, 1, 24)
    for bad in (vectors, vectors[..., :16].double()):
        with pytest.raises(CacheStateError, match="a cache of its own"):
            cache._storing[0].update(bad, bad)
