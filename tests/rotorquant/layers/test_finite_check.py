"""NaN and infinity in what is stored: found late, without waiting, and before anything is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache
from rotorquant.exceptions import NonFiniteError
from rotorquant.layers import finite_check
from tests.rotorquant.models import SMALL_WINDOW, gemma, random_tokens, read


def _late(model: Any) -> RotorQuantCache:
    """A cache that treats the CPU as a GPU is treated."""
    cache = RotorQuantCache(model, bits=4, **SMALL_WINDOW)
    cache._finite_check.deferred_on = ("cpu",)
    return cache


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_late_check_stops_the_next_pass_and_every_one_after(poison: float, layer: int) -> None:
    model, tokens = gemma(), random_tokens(1, 40)
    cache = _late(model)
    read(model, cache, tokens)
    mark = cache.mark()
    expected = read(model, cache, tokens)
    cache.rewind(mark)
    weight = model.model.layers[layer].self_attn.k_norm.weight
    healthy = weight.detach().clone()
    weight.data[0] = poison
    read(model, cache, tokens)
    weight.data.copy_(healthy)
    for _ in range(2):
        with pytest.raises(NonFiniteError, match="tokens from 40 on hold NaN or infinity"):
            read(model, cache, tokens[:, :1])
    cache.rewind(mark)
    assert torch.equal(read(model, cache, tokens), expected)


def test_what_was_sound_before_it_was_taken_back_does_not_count(tmp_path: Path) -> None:
    model, tokens = gemma(), random_tokens(1, 40)
    cache = _late(model)
    read(model, cache, tokens[:, :8])
    mark = cache.mark()
    for count in (40, 1):
        read(model, cache, tokens[:, :count])
    cache.rewind(mark)
    cache.save(tmp_path / "cache")
    model.model.layers[2].self_attn.k_norm.weight.data[0] = torch.nan
    read(model, cache, tokens[:, :9])
    with pytest.raises(NonFiniteError, match="tokens from 8 on"):
        read(model, cache, tokens[:, :1])


class _Unread:
    """A number that has not arrived yet."""

    has_arrived = False

    def __init__(self, number: torch.Tensor) -> None:
        self._number = number.clone()

    def value(self) -> float:
        return float(self._number)


def test_a_mark_knows_what_nobody_has_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark does not wait; going back to it undoes what came behind it, and nothing else."""
    monkeypatch.setattr(finite_check, "PendingScalar", _Unread)
    model, tokens = gemma(), random_tokens(1, 40)
    cache = _late(model)
    read(model, cache, tokens)
    mark = cache.mark()
    expected = read(model, cache, tokens)
    cache.rewind(mark)
    weight = model.model.layers[1].self_attn.k_norm.weight
    healthy = weight.detach().clone()
    weight.data[0] = torch.nan
    read(model, cache, tokens)
    bad = cache.mark()
    weight.data.copy_(healthy)
    cache.rewind(bad)
    with pytest.raises(NonFiniteError, match="tokens from 40 on"):
        cache.freeze()
    cache.rewind(mark)
    assert torch.equal(read(model, cache, tokens), expected)
    cache.freeze()


@pytest.mark.parametrize("call", ["mark", "save", "repack"])
def test_a_broken_cache_is_not_kept(call: str, tmp_path: Path) -> None:
    model, tokens = gemma(), random_tokens(1, 40)
    cache = _late(model)
    read(model, cache, tokens[:, :8])
    model.model.layers[2].self_attn.k_norm.weight.data[0] = torch.nan
    read(model, cache, tokens[:, :1])
    calls: dict[str, Any] = {
        "mark": cache.mark,
        "save": lambda: cache.save(tmp_path / "cache"),
        "repack": lambda: cache.repack(2),
    }
    with pytest.raises(NonFiniteError, match="tokens from 8 on"):
        calls[call]()
    assert not list(tmp_path.iterdir())
    assert cache.config.bits == 4
    cache.crop_to(8)
    calls[call]()


def test_a_late_check_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `item` of a tensor is a wait on a GPU."""
    model, tokens = gemma(), random_tokens(1, 9)
    waits = 0
    original = torch.Tensor.item

    def counted(self: torch.Tensor) -> float:
        nonlocal waits
        waits += 1
        return original(self)

    counts = {}
    for name, cache in (("late", _late(model)), ("at once", RotorQuantCache(model))):
        read(model, cache, tokens)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "item", counted)
            waits = 0
            read(model, cache, tokens[:, :1])
            counts[name] = waits
    assert counts["at once"] - counts["late"] == len(model.model.layers)
