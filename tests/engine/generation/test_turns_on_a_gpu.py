"""Turns on a GPU that is not there: no step and no chunk of a prompt waits for the one before."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rqchat.engine.generation import generate
from rqchat.engine.generation.cached_prefix import CachedPrefix
from rqchat.engine.generation.generate import Generation, Steps
from rqchat.engine.generation.prompt import Prompt
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.loading.loader import LoadedModel
from rqchat.engine.settings import SamplingSettings
from tests.card import Card
from tests.engine.planning.meta_device import pretend_gpu
from tests.helpers import byte_tokenizer


class _Arrived:
    """A number that was waited for, as every token of an answer is."""

    def __init__(self, number: torch.Tensor) -> None:
        assert number.is_meta

    def value(self) -> int:
        return 40


class _Recorder:
    """Captures steps, and replays nothing."""

    def __init__(self) -> None:
        self.captures = 0

    def rehearse(self, step: Callable[[], None]) -> bool:
        step()
        return True

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        step()
        return lambda: None


@pytest.mark.parametrize("model_index", [0, 1], ids=["31B", "26B-A4B"])
def test_turns_wait_for_tokens_alone(monkeypatch: pytest.MonkeyPatch, model_index: int) -> None:
    current = pretend_gpu(monkeypatch)
    monkeypatch.setattr(generate, "PendingScalar", _Arrived)
    card, recorder = Card(model_index=model_index), _Recorder()
    tokenizer = byte_tokenizer()
    loaded = LoadedModel(card.model, tokenizer, None, frozenset(), 1.0, 0, 0.0)
    writer: Any = SimpleNamespace(control_tokens={})
    prefix, steps = CachedPrefix(card.cache, 6), Steps(recorder)
    card.cache.reset()
    settings = SamplingSettings(temperature=0.7, top_p=0.9, repetition_penalty=1.3)
    with card.rules:
        for length in (70, 1400, 1500):  # the first ends between a sink that is full and 16 more
            ids = tuple(range(40, 40 + length))
            prompt = Prompt(ids, ids, (), length // 2, length - 4, ())
            turn = Generation(loaded, writer, prefix, lambda: False, steps)
            list(turn.run(prompt, Sampler(settings), 12, 512))
            assert turn.output_tokens == 12
            assert turn.cached_tokens == {70: 0, 1400: 66, 1500: 1396}[length]
    assert recorder.captures
    assert not list(steps.troubles())
    assert current.launched
    assert not current.unguarded
