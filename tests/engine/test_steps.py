"""Captured decode steps through everything that a session does: the same tokens as plain steps.

A tape stands for a CUDA graph (`tests/tape.py`), and cache and model are the real ones. In plain
sessions steps read the cache as captured ones do, so answers have to be equal to the token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextDecoderLayer

from rotorquant.graph import CudaRecorder
from rotorquant.sent import Sent
from rqchat.engine import generate
from rqchat.engine import session as session_module
from rqchat.engine.documents import Document
from rqchat.engine.events import Done, Event, Notice, TextDelta
from rqchat.engine.opening import OpenedModel
from rqchat.engine.sampling import Sampler
from rqchat.engine.session import ChatSession, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings
from tests.tape import WAITS, Tape, TapeRecorder, decodes_on_device

_GREEDY = SamplingSettings(temperature=0, max_tokens=12)
_SEEDED = SamplingSettings(temperature=1.5, seed=5, top_k=40, top_p=0.9, max_tokens=12)
# A page of 64 tokens is packed in the middle of the answer, on top of 64 first and 512 latest ones
_LONG = SamplingSettings(temperature=0, max_tokens=75)
_DOCUMENT = UserTurn("Sum up.", documents=(Document("d", "some words of a text " * 32),))


@pytest.fixture(autouse=True)
def _on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    decodes_on_device(monkeypatch)


@pytest.fixture(scope="module")
def opened(tiny_folder: Path) -> ChatSession:
    return ChatSession.open(Settings(model=str(tiny_folder), device="cpu", kv_bits=4))


@pytest.fixture(scope="module")
def pocket() -> ChatSession:
    return ChatSession.open(Settings(model="pocket", device="cpu", kv_bits=4))


def _over(
    opened: ChatSession, recorder: Any = None, *, stops: frozenset[int] = frozenset(), **chosen: Any
) -> ChatSession:
    changed = dataclasses.replace(opened.plan.chosen, **chosen)
    plan = dataclasses.replace(opened.plan, chosen=changed)
    loaded = dataclasses.replace(opened._loaded, stop_ids=stops)
    return ChatSession(OpenedModel(loaded, plan, "tiny"), recorder=recorder)


def _done(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def _notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


@dataclasses.dataclass
class Answers:
    """Asks one session, and keeps the tokens that it draws and the logits that it draws from."""

    session: ChatSession
    tokens: list[int] = dataclasses.field(default_factory=list)
    logits: list[torch.Tensor] = dataclasses.field(default_factory=list)

    def ask(
        self, turn: UserTurn | str, sampling: SamplingSettings = _GREEDY, **options: Any
    ) -> list[Event]:
        answers = self

        class Noting(Sampler):
            def draw(self, logits: torch.Tensor) -> torch.Tensor:
                answers.logits.append(logits.clone())
                return super().draw(logits)

            def accept(self, token: int) -> None:
                answers.tokens.append(token)
                super().accept(token)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session_module, "Sampler", Noting)
            turn = UserTurn(turn) if isinstance(turn, str) else turn
            events = list(self.session.ask(turn, sampling, **options))
        held = self.session._prefix.cache.get_seq_length()
        assert self.session.used_tokens == held  # also where a step ran ahead
        return events

    def assert_same(self, other: Answers) -> None:
        assert self.tokens == other.tokens
        assert torch.equal(torch.stack(self.logits), torch.stack(other.logits))
        assert self.session.messages == other.session.messages


def _conversation(session: ChatSession) -> Answers:
    """A long document, another turn, one taken back and asked again, a retry, an open beginning."""
    answers = Answers(session)
    answers.ask(_DOCUMENT, _LONG)
    answers.ask("And then?", _SEEDED)
    before = session.messages
    answers.ask("To be taken back.")
    session.restore(before)
    answers.ask("Asked instead.")
    session.restore(before)
    answers.ask("Asked instead.", dataclasses.replace(_SEEDED, seed=6))
    answers.ask("Go on.", begun="It is")
    session.clear()
    answers.ask("Anew.")
    return answers


def test_a_conversation_is_the_same_to_the_bit(opened: ChatSession) -> None:
    recorder = TapeRecorder()
    plain, taped = _conversation(_over(opened)), _conversation(_over(opened, recorder))

    taped.assert_same(plain)
    assert len(plain.tokens) > 120
    # One graph an answer: a prompt replaces tensors. What is not replayed ran before it.
    assert len(recorder.tapes) == 7
    assert recorder.rehearsals <= 2 * 7
    assert not set().union(*(tape.names for tape in recorder.tapes)) & WAITS


def test_the_pocket_model_finds_what_it_finds(pocket: ChatSession) -> None:
    prose = "The tide came in before noon and nobody spoke of the storm that had been promised. "
    text = f"{prose * 20}The access code for the north gate is 48213. {prose * 20}"
    turn = UserTurn("What is the access code for the north gate?", documents=(Document("t", text),))
    sampling = SamplingSettings(temperature=0, max_tokens=80)
    recorder = TapeRecorder()
    stops = pocket._loaded.stop_ids
    plain, taped = (Answers(_over(pocket, each, stops=stops)) for each in (None, recorder))
    for answers in (plain, taped):
        answers.ask(turn, sampling)
        answers.ask("Who are you?", sampling)

    taped.assert_same(plain)
    assert taped.session.messages[1].text == "The access code for the north gate is 48213."
    assert len(recorder.tapes) == 2


def test_schema_thought_and_seed_hold(opened: ChatSession) -> None:
    schema = (
        '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],'
        ' "additionalProperties": false}'
    )
    made = []
    for recorder in (None, TapeRecorder()):
        answers = Answers(_over(opened, recorder, stops=opened._loaded.stop_ids))
        answers.session.thinking = True
        sampling = dataclasses.replace(_SEEDED, max_tokens=60)
        answers.ask("Which?", sampling, schema=schema)
        made.append(answers)

    made[1].assert_same(made[0])


@pytest.mark.parametrize("close", [False, True], ids=["interrupted", "closed"])
def test_an_answer_that_is_broken_off_goes_on(opened: ChatSession, close: bool) -> None:
    made = []
    for recorder in (None, TapeRecorder()):
        answers = Answers(_over(opened, recorder))
        events = answers.session.ask(
            UserTurn("Tell me."), dataclasses.replace(_SEEDED, max_tokens=75)
        )
        pieces = list(_until_text(events, 5))
        if close:
            events.close()  # type: ignore[attr-defined]
        else:
            answers.session.interrupt()
            pieces += list(events)
        assert answers.session.messages[-1].interrupted
        answers.ask("Go on.")
        made.append(answers)

    assert made[0].session.messages[1].text == made[1].session.messages[1].text
    made[1].assert_same(made[0])


def _until_text(events: Iterator[Event], pieces: int) -> Iterator[Event]:
    for event in events:
        yield event
        pieces -= isinstance(event, TextDelta)
        if not pieces:
            return


def _breaking(
    monkeypatch: pytest.MonkeyPatch, recorder: TapeRecorder, error: Exception, times: int
) -> None:
    """The first `times` recordings break off with `error` in the middle of the model."""
    forward, calls = Gemma4TextDecoderLayer.forward, 0

    def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        output = forward(self, *args, **kwargs)
        recording = isinstance(torch.utils._python_dispatch._get_current_dispatch_mode(), Tape)
        if recording and len(recorder.tapes) <= times:
            calls += 1
            if calls % 4 == 0:
                raise error
        return output

    monkeypatch.setattr(Gemma4TextDecoderLayer, "forward", limited)


def test_out_of_memory_at_the_capture_steps_down(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, recorder = Answers(_over(opened)), TapeRecorder()
    undisturbed = [plain.ask("What is it?", _SEEDED), plain.ask("And?", _SEEDED)]
    _breaking(monkeypatch, recorder, torch.OutOfMemoryError("no room"), 4)
    taped = Answers(_over(opened, recorder))
    disturbed = [taped.ask("What is it?", _SEEDED), taped.ask("And?", _SEEDED)]

    # Nothing is packed yet, so fewer bits change nothing; the last step halves the context
    assert taped.tokens == plain.tokens
    assert _notices(disturbed[0]) == [
        "out of memory: going on with 3 instead of 4 bits of KV cache",
        "out of memory: going on with 2 instead of 3 bits of KV cache",
        "out of memory: going on with a context of 1,024 instead of 2,048 tokens",
        "out of memory: going on with a context of 512 instead of 1,024 tokens",
    ]
    assert _notices(disturbed[1]) == []
    assert taped.session.messages == plain.session.messages
    assert _done(disturbed[0]).tokens.output == _done(undisturbed[0]).tokens.output
    assert len(recorder.tapes) == 6


def test_packed_pages_are_repacked_between_graphs(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = TapeRecorder()
    taped = Answers(_over(opened, recorder))
    taped.ask(_DOCUMENT)
    cache = taped.session._prefix.cache
    before = cache.nbytes
    _breaking(monkeypatch, recorder, torch.OutOfMemoryError("no room"), 2)
    events = taped.ask("Again.", _LONG)

    assert _notices(events) == ["out of memory: going on with 3 instead of 4 bits of KV cache"]
    assert taped.session._prefix.cache is cache
    assert cache.nbytes < before
    assert _done(events).tokens.output == _LONG.max_tokens
    # The same from a session that never had a graph
    plain = Answers(_over(opened, kv_bits=3))
    plain.session.restore(taped.session.messages[:2])
    plain.ask("Again.", _LONG)
    assert len(recorder.tapes) == 3


def test_a_failed_capture_is_told_once_and_plain_steps_go_on(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, recorder = Answers(_over(opened)), TapeRecorder()
    plain.ask("What is it?", _SEEDED)
    plain.ask("And?")
    failure = RuntimeError("operation not permitted when stream is capturing\nmore of it")
    _breaking(monkeypatch, recorder, failure, 1)
    taped = Answers(_over(opened, recorder))
    events = taped.ask("What is it?", _SEEDED), taped.ask("And?")

    taped.assert_same(plain)
    assert [_notices(each) for each in events] == [
        [
            "tokens come slower here, without a CUDA graph: operation not permitted when stream is"
            " capturing"
        ],
        [],
    ]
    assert len(recorder.tapes) == 1


def test_a_model_that_waits_for_the_device_is_never_captured(opened: ChatSession) -> None:
    plain, recorder = Answers(_over(opened)), TapeRecorder(waits=True)
    taped = Answers(_over(opened, recorder))
    for answers in (plain, taped):
        answers.ask("What is it?")
    events = taped.ask("And?")
    plain.ask("And?")

    taped.assert_same(plain)
    assert (recorder.rehearsals, recorder.tapes, _notices(events)) == (3, [], [])


def test_a_token_costs_one_wait_and_the_next_step_is_queued_before_it(
    opened: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Noted(Sent):
        def value(self) -> int | float:
            happened.append("wait")
            return super().value()

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            happened.append(name)
            return method(*args, **kwargs)

        return call

    class Playing(TapeRecorder):
        def record(self, step: Callable[[], None]) -> Callable[[], None]:
            play = super().record(step)

            def on_device() -> None:
                before = len(happened)
                play()  # the op's reference reads lengths, as its kernel does on the device
                happened[before:] = ["step"]

            return on_device

    monkeypatch.setattr(generate, "Sent", Noted)
    for name in ("item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, noting(name, getattr(torch.Tensor, name)))
    *_, done = _over(opened, Playing()).ask(_DOCUMENT, _SEEDED)

    assert isinstance(done, Done)
    steps = happened[happened.index("step") :]
    assert steps == ["step", "wait"] * (len(steps) // 2) + ["wait"]  # none after the last token
    assert done.tokens.output - 2 < len(steps) / 2


def test_a_gpu_captures_by_itself_and_a_cpu_does_not() -> None:
    assert isinstance(generate.recorder_for(torch.device("cuda")), CudaRecorder)
    assert generate.recorder_for(torch.device("cpu")) is None
