"""Sessions over a tiny random model, answers that are scripted, and the logits behind them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rqchat.engine import session as session_module
from rqchat.engine.events import Done, Event, Notice
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.loading.open_model import OpenedModel
from rqchat.engine.session import ChatSession, Message, UserTurn
from rqchat.engine.settings import SamplingSettings, Settings
from tests.helpers import SPECIAL_TOKENS, byte_tokenizer

__all__ = [
    "GREEDY",
    "Answers",
    "answered",
    "assert_same",
    "copy",
    "done_of",
    "fail_at",
    "logits_of",
    "notices_of",
    "open_session",
    "over",
    "picture_of",
    "script",
]

GREEDY = SamplingSettings(temperature=0, max_tokens=12)
_EOS = SPECIAL_TOKENS.index("<turn|>")


def open_session(folder: Path, **asked: Any) -> ChatSession:
    asked = {"kv_bits": 16, **asked}
    return ChatSession.open(Settings(model=str(folder), device="cpu", **asked))


def over(opened: ChatSession, recorder: Any = None, **chosen: Any) -> ChatSession:
    """A new session over the model of `opened`, whose plan is changed by `chosen`."""
    smaller = dataclasses.replace(opened.plan.chosen, **chosen)
    plan = dataclasses.replace(opened.plan, chosen=smaller)
    return ChatSession(OpenedModel(opened._loaded, plan, "tiny"), recorder=recorder)


def copy(loaded: ChatSession, messages: tuple[Message, ...]) -> ChatSession:
    session = over(loaded)
    session._messages = messages
    return session


def picture_of(colour: str, width: int = 96, height: int = 48) -> Picture:
    image = Image.linear_gradient("L").resize((width, height))
    tinted = Image.composite(Image.new("RGB", image.size, colour), image.convert("RGB"), image)
    return Picture(colour, width, height, tinted)


def script(monkeypatch: pytest.MonkeyPatch, text: str, *, then: int = _EOS) -> None:
    """Lets the sampler draw the tokens of `text`, then `then` for ever."""
    tokens = [*byte_tokenizer()(text, add_special_tokens=False)["input_ids"]]

    class Scripted:
        seed = 0
        is_over = False

        def __init__(self, *_: Any) -> None:
            self._tokens = iter(tokens)

        def draw(self, logits: torch.Tensor) -> torch.Tensor:
            return torch.tensor(next(self._tokens, then))

        def accept(self, token: int) -> None:
            """Nothing depends on it."""

    monkeypatch.setattr(session_module, "Sampler", Scripted)


def fail_at(
    monkeypatch: pytest.MonkeyPatch, session: ChatSession, call: int, error: BaseException
) -> None:
    """Lets a forward pass fail after it has changed the cache: the one after `call` others."""
    model = type(session._loaded.model)
    calls, forward = itertools.count(), model.forward

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        if next(calls) == call:
            raise error
        return output

    monkeypatch.setattr(model, "forward", fail)


def done_of(events: Iterable[Event]) -> Done:
    *_, last = events
    assert isinstance(last, Done)
    return last


def answered(
    session: ChatSession, turn: UserTurn, sampling: SamplingSettings = GREEDY
) -> tuple[torch.Tensor, Done]:
    """The logits [tokens, vocabulary] that the answer to `turn` is drawn from, and the record."""
    seen: list[torch.Tensor] = []

    class Noting(Sampler):
        def draw(self, logits: torch.Tensor) -> torch.Tensor:
            seen.append(logits)
            return super().draw(logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "Sampler", Noting)
        done = done_of(session.ask(turn, sampling))
    return torch.stack(seen), done


def logits_of(
    session: ChatSession, turn: UserTurn, sampling: SamplingSettings = GREEDY
) -> torch.Tensor:
    return answered(session, turn, sampling)[0]


def assert_same(first: torch.Tensor, second: torch.Tensor) -> None:
    """Equal but for the order of float32 sums: 2.4e-6 were seen, with logits of 6."""
    torch.testing.assert_close(first, second, atol=5e-5, rtol=0)


def notices_of(events: Iterable[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


@dataclasses.dataclass
class Answers:
    """Asks one session, and keeps the tokens that it draws and the logits that it draws from."""

    session: ChatSession
    tokens: list[int] = dataclasses.field(default_factory=list)
    logits: list[torch.Tensor] = dataclasses.field(default_factory=list)

    def ask(
        self, turn: UserTurn | str, sampling: SamplingSettings = GREEDY, **options: Any
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
        cached = self.session._prefix.cache.get_seq_length()
        assert self.session.used_tokens == cached  # also where a step ran ahead
        return events

    def assert_same(self, other: Answers) -> None:
        assert self.tokens == other.tokens
        assert torch.equal(torch.stack(self.logits), torch.stack(other.logits))
        assert self.session.messages == other.session.messages
