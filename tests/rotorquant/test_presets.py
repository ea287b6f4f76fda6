"""TurboQuant under the same contract: K and V stored, in every variant that was published."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache, TurboQuantCache
from rotorquant.exceptions import ConfigError
from tests.rotorquant.attend.test_entry import both_ways
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "walsh-hadamard": {"rotation": "hadamard", "scale": "matched"},
    "qjl": {"keys": "qjl"},
    "qjl walsh-hadamard 3": {"keys": "qjl", "rotation": "hadamard", "bits": 3},
    "legacy": {"rotation": "hadamard", "table": "legacy", "scale": "matched"},
}


@torch.no_grad()
@pytest.mark.parametrize("make", [gemma, llama])
@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_attention_is_eager_attention_over_the_dequantized_cache(
    make: Any, variant: str
) -> None:
    model, tokens = make(), random_tokens(1, 121)
    cache = TurboQuantCache(model, **VARIANTS[variant], **SMALL_WINDOW)
    model(tokens[:, :100], past_key_values=cache)
    eager, packed = both_ways(model, cache, input_ids=tokens[:, 100:])
    torch.testing.assert_close(packed, eager, atol=5e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("variant", "bytes_more"), [("paper", 0), ("qjl", 2)])
def test_a_token_takes_the_bytes_of_both_vectors(variant: str, bytes_more: int) -> None:
    """32 values of 4 bits and a scale, twice; the residual's length comes to the keys."""
    model, tokens = gemma(), random_tokens(1, 200)
    sizes = []
    for kind, options in ((TurboQuantCache, VARIANTS[variant]), (RotorQuantCache, {})):
        cache = kind(model, max_tokens=300, **options, **SMALL_WINDOW)
        for part in tokens.split(50, dim=1):
            model(part, past_key_values=cache)
        model(tokens[:, :1], past_key_values=cache)
        sizes.append(cache.nbytes)
    packed, exact = 300 - 8 - 24, 8 + 24 + 16
    positions = 300 * 4
    more = packed * (18 + bytes_more) + exact * 32 * 4 - positions
    assert sizes[0] - sizes[1] == more


@torch.no_grad()
def test_it_generates() -> None:
    model = gemma()
    cache = TurboQuantCache(model, 4, keys="qjl", **SMALL_WINDOW)
    tokens = model.generate(
        random_tokens(1, 90), past_key_values=cache, max_new_tokens=12, min_new_tokens=12
    )
    assert tokens.shape[1] == 102
    assert cache.packed_tokens > 0


def test_what_is_not_published_is_refused() -> None:
    with pytest.raises(ConfigError, match="rotation is 'planar'; allowed are haar, hadamard"):
        TurboQuantCache(gemma(), rotation="planar")
