"""A capture that fails, in whatever way: what is said, and plain steps that go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextDecoderLayer

from rqchat.engine.inputs.documents import Document
from rqchat.engine.session import ChatSession, UserTurn
from rqchat.engine.settings import SamplingSettings
from tests.engine.sessions import Answers, done_of, notices_of, over
from tests.tape import Tape, TapeRecorder, decodes_on_device

_SEEDED = SamplingSettings(temperature=1.5, seed=5, top_k=40, top_p=0.9, max_tokens=12)
# A page of 64 tokens is packed in the middle of the answer, on top of 64 first and 512 latest ones
_LONG = SamplingSettings(temperature=0, max_tokens=75)
_DOCUMENT = UserTurn("Sum up.", documents=(Document("d", "some words of a text " * 32),))


@pytest.fixture(autouse=True)
def _on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    decodes_on_device(monkeypatch)


def _breaking(
    monkeypatch: pytest.MonkeyPatch, recorder: TapeRecorder, error: Exception, times: int
) -> None:
    """The first `times` recordings break off with `error` in the middle of the model."""
    layer, calls = Gemma4TextDecoderLayer.__call__, 0

    def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        output = layer(self, *args, **kwargs)
        recording = isinstance(torch.utils._python_dispatch._get_current_dispatch_mode(), Tape)
        if recording and len(recorder.tapes) <= times:
            calls += 1
            if calls % 4 == 0:
                raise error
        return output

    monkeypatch.setattr(Gemma4TextDecoderLayer, "__call__", limited)


def test_out_of_memory_at_the_capture_steps_down(
    endless: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, recorder = Answers(over(endless)), TapeRecorder()
    undisturbed = [plain.ask("What is it?", _SEEDED), plain.ask("And?", _SEEDED)]
    _breaking(monkeypatch, recorder, torch.OutOfMemoryError("full"), 4)
    taped = Answers(over(endless, recorder))
    disturbed = [taped.ask("What is it?", _SEEDED), taped.ask("And?", _SEEDED)]

    # Nothing is packed yet, so fewer bits change nothing; the last step halves the context
    assert taped.tokens == plain.tokens
    assert notices_of(disturbed[0]) == [
        "out of memory: going on with 3 instead of 4 bits of KV cache",
        "out of memory: going on with 2 instead of 3 bits of KV cache",
        "out of memory: going on with a context of 1,024 instead of 2,048 tokens",
        "out of memory: going on with a context of 512 instead of 1,024 tokens",
    ]
    assert notices_of(disturbed[1]) == []
    assert taped.session.messages == plain.session.messages
    assert done_of(disturbed[0]).tokens.output == done_of(undisturbed[0]).tokens.output
    assert len(recorder.tapes) == 6


def test_packed_pages_are_repacked_between_graphs(
    endless: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = TapeRecorder()
    taped = Answers(over(endless, recorder))
    taped.ask(_DOCUMENT)
    cache = taped.session._prefix.cache
    before = cache.nbytes
    _breaking(monkeypatch, recorder, torch.OutOfMemoryError("full"), 2)
    events = taped.ask("Again.", _LONG)

    assert notices_of(events) == ["out of memory: going on with 3 instead of 4 bits of KV cache"]
    assert taped.session._prefix.cache is cache
    assert cache.nbytes < before
    assert done_of(events).tokens.output == _LONG.max_tokens
    assert len(recorder.tapes) == 3


def test_a_failed_capture_is_reported_once_and_plain_steps_go_on(
    endless: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, recorder = Answers(over(endless)), TapeRecorder()
    plain.ask("What is it?", _SEEDED)
    plain.ask("And?")
    failure = RuntimeError("operation not permitted when stream is capturing\nmore of it")
    _breaking(monkeypatch, recorder, failure, 1)
    taped = Answers(over(endless, recorder))
    events = taped.ask("What is it?", _SEEDED), taped.ask("And?")

    taped.assert_same(plain)
    assert [notices_of(each) for each in events] == [
        [
            "tokens come slower here, without a CUDA graph: operation not permitted when stream is"
            " capturing"
        ],
        [],
    ]
    assert len(recorder.tapes) == 1


def test_a_model_that_waits_for_the_device_is_never_captured(endless: ChatSession) -> None:
    plain, recorder = Answers(over(endless)), TapeRecorder(waits=True)
    taped = Answers(over(endless, recorder))
    for answers in (plain, taped):
        answers.ask("What is it?")
    events = taped.ask("And?")
    plain.ask("And?")

    taped.assert_same(plain)
    assert (recorder.rehearsals, recorder.tapes, notices_of(events)) == (3, [], [])
