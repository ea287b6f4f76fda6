"""A cache's whole way on a GPU that is not there: where tensors lie, where the host waits.

The meta device stands for the card (`tests/device_rules.py`), with a layer of each kind that Gemma
4 31B has, in their true sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rotorquant import RotorQuantCache, snapshot
from rotorquant.layers.kept_rows import KeptRows
from tests.card import GLOBAL, SLIDING, Card
from tests.engine.planning.meta_device import CurrentDevice, pretend_gpu


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> Iterator[CurrentDevice]:
    current = pretend_gpu(monkeypatch)
    yield current
    assert current.launched
    assert not current.unguarded


def test_host_and_device_never_meet_and_nobody_waits(
    current: CurrentDevice, tmp_path: Path
) -> None:
    card = Card()
    cache, rules = card.cache, card.rules
    with rules:
        for tokens in (1, 16, 20, 65, 70, 80, 90, 600, 1100, 2000):
            cache.reset()
            card.read(tokens)
            mark = cache.mark("cpu")
            card.read(1)
            cache.rewind(mark)
            card.read(2 + tokens % 15)  # drafts, of which some are taken back
            cache.flush()
            cache.rewind(mark)
            card.read(40)
            cache.rewind(mark)
        card.read(300)
        with rules.waits():  # new tables are made
            cache.repack(3)
        cache.rewind(mark)
        card.read(3)
        cache.activate_past_recording()
        card.read(9)
        cache.crop(-5)
        card.read(1)
        with rules.waits():
            cache.save(tmp_path / "cache")
        cache.batch_repeat_interleave(2)
        with rules.waits():
            cache.reorder_cache(torch.tensor([1, 1]))
        card.read(1, batch=2)
        types = torch.zeros(1, 2300, dtype=torch.long)
        cache.reset()
        card.read(10)
        types[:, 20:40] = 1
        with rules.waits():  # transformers sends where pictures are
            card.read(60, mm_token_type_ids=types[:, :70])
        card.read(1)


@pytest.mark.parametrize("before", [600, 3000])
def test_a_turn_copies_what_it_overwrites(current: CurrentDevice, before: int) -> None:
    """Of Gemma 4 31B, which has ten such groups of layers: 839 MB lie in its windows."""
    card = Card((*[SLIDING] * 5, GLOBAL))
    cache, rules = card.cache, card.rules
    with rules:
        card.read(before)
        marks = [cache.mark("cpu")]
        for _ in range(2):
            copied = rules.to_host_bytes
            card.read(30)
            marks.append(cache.mark("cpu"))
            for _ in range(10):
                cache.flush()
                card.read(1)
            assert 10 * (rules.to_host_bytes - copied) < 40e6
        copied = rules.to_host_bytes
        cache.rewind(marks[1])
        card.read(30)
        assert rules.to_host_bytes == copied
        cache.rewind(marks[0])
        assert cache.get_seq_length() == before + 8
    if before < 1000:  # nothing in a ring has been overwritten
        sliding = [each for each in marks[0].states if isinstance(each, KeptRows)]
        assert not any(each.copies for each in sliding)


@pytest.mark.parametrize("tokens", [3, 70])
def test_a_file_is_read_onto_the_card(
    current: CurrentDevice, tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of contents, which the meta device has not
    monkeypatch.setattr(snapshot, "_tie_digest", lambda tie: "")
    card = Card()
    with card.rules, card.rules.waits():
        card.cache.reset()
        card.read(tokens)
        card.cache.save(tmp_path / "cache")
    loaded = card.made(lambda: RotorQuantCache.load(tmp_path / "cache", card.model))
    assert loaded.get_seq_length() == tokens + 8
    with card.rules:
        card.read(1)
