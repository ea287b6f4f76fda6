"""Captured decode steps through everything that a session does: the same tokens as plain steps.

A tape stands for a CUDA graph (`tests/tape.py`), and cache and model are the real ones. In plain
sessions steps read the cache as captured ones do, so answers have to be equal to the token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rotorquant.layers.pending_scalar import PendingScalar
from rotorquant.step_graph import CudaRecorder
from rqchat.engine.events import Done, Event, TextDelta
from rqchat.engine.generation import generate
from rqchat.engine.inputs.documents import Document
from rqchat.engine.session import ChatSession, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings
from tests.engine.sessions import Answers, over
from tests.tape import WAITS, TapeRecorder, decodes_on_device

pytestmark = pytest.mark.slow
_SEEDED = SamplingSettings(temperature=1.5, seed=5, top_k=40, top_p=0.9, max_tokens=12)
# A page of 64 tokens is packed in the middle of the answer, on top of 64 first and 512 latest ones
_LONG = SamplingSettings(temperature=0, max_tokens=75)
_DOCUMENT = UserTurn("Sum up.", documents=(Document("d", "some words of a text " * 32),))


@pytest.fixture(autouse=True)
def _on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    decodes_on_device(monkeypatch)


@pytest.fixture(scope="module")
def pocket() -> ChatSession:
    return ChatSession.open(Settings(model="pocket", device="cpu", kv_bits=4))


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


def test_a_conversation_is_the_same_to_the_bit(endless: ChatSession) -> None:
    recorder = TapeRecorder()
    plain, taped = _conversation(over(endless)), _conversation(over(endless, recorder))

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
    plain, taped = (Answers(over(pocket, each)) for each in (None, recorder))
    for answers in (plain, taped):
        answers.ask(turn, sampling)
        answers.ask("Who are you?", sampling)

    taped.assert_same(plain)
    assert taped.session.messages[1].text == "The access code for the north gate is 48213."
    assert len(recorder.tapes) == 2


def test_schema_thought_and_seed_hold(packed: ChatSession) -> None:
    schema = (
        '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],'
        ' "additionalProperties": false}'
    )
    made = []
    for recorder in (None, TapeRecorder()):
        answers = Answers(over(packed, recorder))
        answers.session.thinking = True
        sampling = dataclasses.replace(_SEEDED, max_tokens=60)
        answers.ask("Which?", sampling, schema=schema)
        made.append(answers)

    made[1].assert_same(made[0])


@pytest.mark.parametrize("close", [False, True], ids=["interrupted", "closed"])
def test_an_answer_that_is_broken_off_goes_on(endless: ChatSession, close: bool) -> None:
    made = []
    for recorder in (None, TapeRecorder()):
        answers = Answers(over(endless, recorder))
        events = answers.session.ask(
            UserTurn("Tell me."), dataclasses.replace(_SEEDED, max_tokens=75)
        )
        pieces = list(_until_text(events, 5))
        if close:
            events.close()
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


def test_a_token_costs_one_wait_and_the_next_step_is_queued_before_it(
    endless: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Noted(PendingScalar):
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

    monkeypatch.setattr(generate, "PendingScalar", Noted)
    for name in ("item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, noting(name, getattr(torch.Tensor, name)))
    *_, done = over(endless, Playing()).ask(_DOCUMENT, _SEEDED)

    assert isinstance(done, Done)
    steps = happened[happened.index("step") :]
    assert steps == ["step", "wait"] * (len(steps) // 2) + ["wait"]  # none after the last token
    # Three run as they are: the first is the prompt's, the next packs what the prompt kept exact
    assert done.tokens.output - 3 < len(steps) / 2


def test_a_gpu_captures_by_itself_and_a_cpu_does_not() -> None:
    assert isinstance(generate.recorder_for(torch.device("cuda")), CudaRecorder)
    assert generate.recorder_for(torch.device("cpu")) is None
