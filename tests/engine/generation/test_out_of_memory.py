"""A device that runs out of memory at any step of an answer: real model, real cache, fake device.

Prompts shorter than the exact window hold nothing packed, so fewer bits change nothing there, and
an answer that was disturbed has to equal one that was not, to the token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextDecoderLayer

from rotorquant import RotorQuantCache
from rqchat.engine.events import Done, Event, PrefillProgress, TextDelta
from rqchat.engine.inputs.documents import Document
from rqchat.engine.session import ChatSession, UserTurn
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import RqchatError
from tests.engine.sessions import notices_of, over

_GREEDY = SamplingSettings(temperature=0, max_tokens=8)
_TURN = UserTurn("What is the answer to this question, which fills some chunks of the prompt?")


@pytest.fixture
def opened(packed: ChatSession) -> ChatSession:
    return over(packed, chunk_tokens=16)


def _text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def _small_device(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    """The device has no room at those calls of a decoder layer, counted from 0."""
    layer, calls = Gemma4TextDecoderLayer.__call__, iter(range(10**9))

    def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = layer(self, *args, **kwargs)  # a layer's cache has its tokens by then
        if fails(next(calls)):
            raise torch.OutOfMemoryError("no room")
        return output

    monkeypatch.setattr(Gemma4TextDecoderLayer, "__call__", limited)


# 6 layers: the prompt of some 100 tokens takes 7 chunks, 42 calls; then come 6 for each token
@pytest.mark.parametrize("call", [0, 5, 6, 20, 41, 42, 47, 60, 80])
def test_an_answer_survives_at_any_step(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    undisturbed = list(over(opened).ask(_TURN, _GREEDY))
    session = over(opened)
    _small_device(monkeypatch, lambda number: number == call)

    events = list(session.ask(_TURN, _GREEDY))

    assert _text(events) == _text(undisturbed)
    assert notices_of(events) == ["out of memory: going on with 3 instead of 4 bits of KV cache"]
    assert session.plan.chosen.kv_bits == session._prefix.cache.config.bits == 3
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.stop_reason, done.tokens.output) == ("length", 8)
    again, fresh = over(opened), list(session.ask(UserTurn("And?"), _GREEDY))
    again.restore(session.messages[:2])
    assert _text(fresh) == _text(list(again.ask(UserTurn("And?"), _GREEDY)))


def test_packed_tokens_are_packed_again_and_not_read_again(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = over(opened)
    document = UserTurn("Sum up.", documents=(Document("d", "some words of a text " * 40),))
    list(session.ask(document, _GREEDY))
    packed, before = session._prefix.cache.packed_tokens, session._prefix.cache.nbytes
    assert packed > 0
    _small_device(monkeypatch, lambda number: number == 20)

    events = list(session.ask(UserTurn("Sum up again."), _GREEDY))

    assert session._prefix.cache.packed_tokens >= packed
    assert session._prefix.cache.nbytes < before
    assert len(session.messages) == 4
    assert isinstance(events[-1], Done)
    assert events[-1].tokens.cached >= packed


def test_when_bits_are_used_up_the_context_is_halved(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = list(over(opened).ask(_TURN, _GREEDY))
    session = over(opened, kv_bits=3)
    _small_device(monkeypatch, lambda number: number in (10, 20, 30))

    events = list(session.ask(_TURN, _GREEDY))

    assert notices_of(events) == [
        "out of memory: going on with 2 instead of 3 bits of KV cache",
        "out of memory: going on with a context of 1,024 instead of 2,048 tokens",
        "out of memory: going on with a context of 512 instead of 1,024 tokens",
    ]
    assert session.context_tokens == 512
    assert _text(events) == _text(undisturbed)


def test_long_prefill_steps_are_given_up_first(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = UserTurn("Sum up.", documents=(Document("d", "some words of a text " * 50),))
    session = over(opened, chunk_tokens=1024)
    _small_device(monkeypatch, lambda number: number in (3, 9))

    events = list(session.ask(turn, _GREEDY))

    assert notices_of(events) == [
        "out of memory: going on with 512 instead of 1,024 tokens of a prompt at a time",
        "out of memory: going on with 3 instead of 4 bits of KV cache",
    ]
    done = [event.done_tokens for event in events if isinstance(event, PrefillProgress)]
    assert done[:3] == [0, 0, 0]  # the first chunks, one of 1,024 and one of 512, did not fit
    assert done[3] == 512 < 1024 < done[-1]


def test_a_cache_that_cannot_even_be_packed_again_is_read_again(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: RotorQuantCache, bits: int) -> None:
        raise torch.OutOfMemoryError("no room")

    undisturbed = list(over(opened).ask(_TURN, _GREEDY))
    session = over(opened)
    _small_device(monkeypatch, lambda number: number == 50)
    monkeypatch.setattr(RotorQuantCache, "repack", no_room)

    events = list(session.ask(_TURN, _GREEDY))

    assert _text(events) == _text(undisturbed)
    assert session._prefix.cache.config.bits == 3


def test_without_anything_left_the_conversation_is_as_it_was(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = over(opened)
    list(session.ask(UserTurn("Hi"), _GREEDY))
    before = session.messages
    with monkeypatch.context() as small:
        _small_device(small, lambda number: True)
        with pytest.raises(
            RqchatError, match="the conversation is as it was.*ask again.*--context"
        ):
            list(session.ask(_TURN, _GREEDY))

    assert session.messages == before
    # Memory is there again: the next answer is that of a session that never ran short
    whole = over(opened)
    whole.restore(before)
    assert _text(list(session.ask(_TURN, _GREEDY))) == _text(list(whole.ask(_TURN, _GREEDY)))
    assert session.plan == whole.plan
    assert session._prefix.cache.config.bits == whole.plan.chosen.kv_bits


@pytest.mark.parametrize("empty", [lambda s: s.clear(), lambda s: s.restore(())])
def test_an_emptied_conversation_comes_back_to_the_whole_plan(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch, empty: Callable[[ChatSession], None]
) -> None:
    session, planned = over(opened), over(opened).plan
    with monkeypatch.context() as small:
        _small_device(small, lambda number: number in (3, 10, 20))
        list(session.ask(_TURN, _GREEDY))
    assert session.plan.chosen.context_tokens < planned.chosen.context_tokens

    empty(session)

    assert session.plan == planned
    assert session._prefix.cache.config.bits == planned.chosen.kv_bits
    assert session._prefix.cache.config.max_tokens == planned.chosen.context_tokens
    assert _text(list(session.ask(_TURN, _GREEDY))) == _text(list(over(opened).ask(_TURN, _GREEDY)))
