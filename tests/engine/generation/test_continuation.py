"""An answer that is continued, and what a conversation consists of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from rqchat.engine import session as session_module
from rqchat.engine.events import Done, Event, TextDelta
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.session import ChatSession, Message, UserTurn
from rqchat.engine.settings import SamplingSettings
from tests.engine.sessions import assert_same
from tests.helpers import SPECIAL_TOKENS, byte_tokenizer

_QUESTION = UserTurn("Who are you?")


def _noted(monkeypatch: pytest.MonkeyPatch, text: str) -> list[torch.Tensor]:
    """Lets the sampler draw `text` and then the end; the logits it was shown."""
    tokens = iter(byte_tokenizer()(text, add_special_tokens=False)["input_ids"])
    seen: list[torch.Tensor] = []

    class Scripted(Sampler):
        def draw(self, logits: torch.Tensor) -> torch.Tensor:
            seen.append(logits)
            return torch.tensor(next(tokens, SPECIAL_TOKENS.index("<turn|>")))

    monkeypatch.setattr(session_module, "Sampler", Scripted)
    return seen


def _text(events: Iterator[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("reason", ["length", "interrupted"])
def test_continuing_is_as_if_it_had_never_stopped(
    session: ChatSession,
    loaded: ChatSession,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    thinking: bool,
) -> None:
    whole, first, rest = "Né à Paris, he says.", "Né à Paris,", " he says."
    session.thinking = thinking
    expected = _noted(monkeypatch, whole)
    assert _text(session.ask(_QUESTION)) == whole

    session.clear()
    most = len(first.encode()) if reason == "length" else None
    _noted(monkeypatch, whole)
    seen = ""
    for event in session.ask(_QUESTION, SamplingSettings(max_tokens=most)):
        seen += event.text if isinstance(event, TextDelta) else ""
        if seen == first:
            session.interrupt()
    assert session.messages[-1].text == first

    answer = session.messages[-1]
    session.restore(())
    logits = _noted(monkeypatch, rest)
    events = list(session.ask(_QUESTION, begun=answer.text))
    assert _text(iter(events)) == rest
    assert session.messages == (Message("user", "Who are you?"), Message("assistant", whole))
    assert_same(torch.stack(logits), torch.stack(expected[-len(logits) :]))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.tokens.output == len(rest)
    if reason == "length":  # all but the last token was in the cache
        assert done.tokens.cached == done.tokens.input - 1


def test_stopped_at_once_the_beginning_is_kept(session: ChatSession) -> None:
    events = session.ask(_QUESTION, begun="I am")
    next(events)
    session.interrupt()
    assert _text(events) == ""
    assert session.messages[-1] == Message("assistant", "I am", interrupted=True)


def test_the_parts_add_up_to_the_prompt(session: ChatSession) -> None:
    image = Image.new("RGB", (96, 48))
    session.system = "Be brief."
    session.restore(
        (
            Message(
                "user", "What?", (Picture("cat.png", 96, 48, image),), (Document("a.txt", "abc"),)
            ),
            Message("assistant", "A cat."),
        )
    )
    parts = session.context_parts()
    soft_tokens = session._writer.soft_tokens(session.messages[0].pictures[0])
    assert [(part.kind, part.label, part.tokens) for part in parts[:-1]] == [
        ("system", "Be brief.", 9),
        ("document", "a.txt", 3),
        ("picture", "cat.png", soft_tokens),
        ("question", "What?", 5),
        ("answer", "A cat.", 6),
    ]
    assert sum(part.tokens for part in parts) == session.count_tokens(UserTurn(""))


_GROWTH = """
import torch
from rqchat.engine.planning.devices import cpu_device
from rqchat.engine.loading.memory_in_use import used_bytes
before = used_bytes(cpu_device())
held = torch.ones(64 << 18)
print(used_bytes(cpu_device()) - before)
"""


def test_memory_in_use_is_what_the_system_says() -> None:
    """In a process of its own, which has no freed memory left to take first."""
    run = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 0.9 * 2**26 < int(run.stdout) < 1.5 * 2**26
