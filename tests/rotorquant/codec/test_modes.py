"""Every mode on models: attention over rows as they lie against attention over decoded keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rotorquant import IsoQuantCache, PlanarQuantCache, RotorQuantCache, RotorQuantConfig
from rotorquant.config import BLOCK_BITS, MODES
from rotorquant.exceptions import ConfigError
from tests.rotorquant.attend.test_entry import both_ways
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens

MODELS: dict[str, Any] = {"tied": {}, "split": {"attention_k_eq_v": False}}


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "mode", "padding"),
    [
        *((kind, mode, 29) for kind in (*MODELS, "llama") for mode in MODES),
        *((kind, mode, 29) for kind in MODELS for mode in BLOCK_BITS),
        *(("tied", mode, 0) for mode in MODES),
    ],
)
def test_packed_attention_is_eager_attention_over_the_dequantized_cache(
    kind: str, mode: str, padding: int
) -> None:
    model = llama() if kind == "llama" else gemma(**MODELS[kind])
    tokens = random_tokens(2, 121)
    mask = torch.ones_like(tokens)
    mask[0, :padding] = 0
    places = (mask.cumsum(-1) - 1).clamp_min(0)
    bits = BLOCK_BITS.get(mode, 3)
    cache = RotorQuantCache(model, bits=bits, mode=mode, **SMALL_WINDOW)
    for low, high in ((0, 100), (100, 101)):
        model(
            tokens[:, low:high],
            attention_mask=mask[:, :high],
            position_ids=places[:, low:high],
            past_key_values=cache,
        )
    assert cache.packed_tokens == 64
    eager, packed = both_ways(
        model,
        cache,
        input_ids=tokens[:, 101:],
        attention_mask=mask,
        position_ids=places[:, 101:],
    )
    # Float32 rounding through up to six layers, logits of order 1.
    torch.testing.assert_close(packed, eager, atol=5e-5, rtol=0)


@torch.no_grad()
def test_tiles_that_are_decoded_join_into_one_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rotorquant.attend.packed_rows._TILE_TOKENS", 24)
    model, tokens = gemma(), random_tokens(1, 140)
    cache = RotorQuantCache(model, mode="iso", **SMALL_WINDOW)
    model(tokens[:, :120], past_key_values=cache)
    eager, packed = both_ways(model, cache, input_ids=tokens[:, 120:])
    torch.testing.assert_close(packed, eager, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ["planar3", "planar4", "iso3", "iso4", "rotor3", "aligned6"])
def test_a_name_tells_mode_and_bits(name: str) -> None:
    config = RotorQuantCache(gemma(), mode=name).config
    assert (config.mode, config.bits) == (name[:-1], int(name[-1]))


def test_a_name_and_other_bits_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="mode is 'planar3' and bits is 4"):
        RotorQuantCache(gemma(), 4, "planar3")
    assert RotorQuantCache(gemma(), 3, "planar3").config.bits == 3


def test_heads_that_are_no_whole_blocks_are_refused() -> None:
    model = llama()
    cache = RotorQuantCache(model, 8, "q8_0")
    with pytest.raises(ConfigError, match="cannot cut heads of 16 into 32s"):
        model(random_tokens(1, 5), past_key_values=cache)


def test_the_thin_names() -> None:
    model = gemma()
    assert PlanarQuantCache(model, 3).config == RotorQuantConfig(3, "planar")
    assert IsoQuantCache(model).config == RotorQuantConfig(4, "iso")
    assert IsoQuantCache(model, full=True, sink_tokens=1).config == RotorQuantConfig(
        4, "iso-full", sink_tokens=1
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "q8_0"}, "'q8_0' with bits 4; it has 8 bits only"),
        ({"key_code": "qjl"}, "needs tied=False"),
        ({"key_code": "qjl", "tied": False, "bits": 2}, "3, 4, 5, 6 bits"),
        ({"table": "legacy", "bits": 3}, "it has 4 bits only"),
        ({"scale": "none"}, "scale is 'none'; allowed are matched, norm"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RotorQuantConfig(**options)
