"""Answers that loop are stopped, and texts that repeat themselves for a reason are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

import rqchat
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.session import ChatSession, UserTurn
from rqchat.engine.settings import SamplingSettings
from tests.engine.sessions import done_of, script
from tests.loops import caught_after, made_up_loops, real_texts

_REAL = ("cp8", "bottles", "row", "gifts", "table", "rules", "zeros", "switch")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(Path(rqchat.__file__).parent / "pocket/tokenizer.json"))


def test_every_made_up_loop_is_caught_within_200_tokens(tokenizer: Tokenizer) -> None:
    places = [caught_after(tokenizer, loop) for loop in made_up_loops()]
    assert len(places) == 50
    assert all(place is not None and place <= 200 for place in places), places


def test_real_texts_pass(tokenizer: Tokenizer) -> None:
    """Some of the 200 of `python -m tests.loops`, those that repeat the most."""
    texts = {name: text for name, text in real_texts() if name.startswith(_REAL)}
    assert len(texts) > 10
    assert [n for n, t in texts.items() if caught_after(tokenizer, t[:8000]) is not None] == []


def test_an_answer_that_loops_is_stopped_and_kept(
    session: ChatSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "Well: " + "and so on, " * 60)
    done = done_of(session.ask(UserTurn("Tell me."), SamplingSettings(max_tokens=600)))
    assert done.stop_reason == "repetition"
    assert done.tokens.output <= 6 + 200
    assert session.messages[-1].text.startswith("Well: and so on, and so on,")
    assert not session.messages[-1].interrupted


def test_a_penalty_makes_what_came_less_likely() -> None:
    logits = torch.tensor([2.0, 1.9, -1.0])
    sampler = Sampler(SamplingSettings(temperature=0, repetition_penalty=1.2))
    drawn = []
    for _ in range(3):
        drawn.append(int(sampler.draw(logits)))
        sampler.accept(drawn[-1])
    assert drawn == [0, 1, 0]
