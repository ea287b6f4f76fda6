"""A session without a model: what commands and the chat need of one, with scripted answers.

It lies apart from the fixtures because programs of their own import it, and pytest is slow to load.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from rqchat.engine.conversation import ContextPart, Message, UserTurn
from rqchat.engine.events import (
    Done,
    Event,
    MemoryUse,
    ModelFacts,
    PrefillProgress,
    StopReason,
    TextDelta,
    ThoughtDelta,
    Timing,
    TokenCounts,
)
from rqchat.engine.planning.devices import DeviceInfo
from rqchat.engine.planning.memory import MemoryBytes
from rqchat.engine.planning.plan import Candidate, MemoryPlan
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import ContextLengthError

__all__ = ["PLAN", "FakeSession"]

CANDIDATE = Candidate("bf16", 16, 4, 1000, MemoryBytes(10, 20, 30, 40, 50))
PLAN = MemoryPlan(
    device=DeviceInfo("a card", 2_000, 1_000, "a test"),
    chosen=CANDIDATE,
    candidates=(CANDIDATE,),
    reason="It fits.",
    asked_tokens=1000,
    image_tokens=280,
)


@dataclass
class FakeSession:
    """Follows `ChatSession`'s contract with scripted answers; a token is a word.

    Attributes:
        script: the next answer's pieces; a number among them is a signal raised at that point.
        failure: raised by the next `ask` before any work.
        before_signal: waits until the main thread can hear one.
    """

    script: list[str | int] = field(default_factory=lambda: ["It is ", "a cat."])
    thoughts: list[str] = field(default_factory=list)
    failure: BaseException | None = None
    system: str | None = None
    thinking: bool = False
    model_name: str = "pocket"
    plan: MemoryPlan = PLAN
    context_tokens: int = 1000
    messages: tuple[Message, ...] = ()
    facts: ModelFacts = ModelFacts("sha256:0123456789abcdef", "aligned", 0.0, "2.13.0")
    asked: list[tuple[UserTurn, SamplingSettings]] = field(default_factory=list)
    settings: Settings | None = None
    opening_failure: BaseException | None = None
    closed: bool = False
    schema: str | None = None
    reason: StopReason = "eos"
    before_signal: Callable[[], None] = lambda: None
    _stopped: bool = False
    _heard: threading.Event = field(default_factory=threading.Event)

    @property
    def used_tokens(self) -> int:
        return sum(len(message.text.split()) for message in self.messages)

    def count_tokens(self, turn: UserTurn) -> int:
        """Five for the template, one per word, 264 per picture."""
        words = [turn.text, *(document.text for document in turn.documents)]
        return 5 + sum(len(text.split()) for text in words) + 264 * len(turn.pictures)

    def check(self, turn: UserTurn) -> int:
        tokens = self.count_tokens(turn)
        if tokens > self.context_tokens:
            raise ContextLengthError(
                f"{tokens} tokens are more than {self.context_tokens}",
                input_tokens=tokens,
                context_tokens=self.context_tokens,
            )
        return tokens

    @property
    def used_bytes(self) -> int:
        return 500_000_000

    def context_parts(self) -> tuple[ContextPart, ...]:
        """A part for each message, and five tokens for the template."""
        parts = [
            ContextPart(
                "question" if message.role == "user" else "answer",
                message.text,
                len(message.text.split()),
            )
            for message in self.messages
        ]
        return (*parts, ContextPart("frame", "", 5))

    def ask(
        self,
        turn: UserTurn,
        sampling: SamplingSettings,
        *,
        schema: str | None = None,
        begun: str = "",
    ) -> Generator[Event, None, None]:
        self.asked.append((turn, sampling))
        self.schema = schema
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        tokens = self.check(turn)
        self._stopped = False
        self._heard.clear()
        yield PrefillProgress(tokens, tokens, 0, 0.5)
        yield from map(ThoughtDelta, self.thoughts)
        said = begun
        for piece in self.script:
            if isinstance(piece, int):
                self.before_signal()
                signal.raise_signal(piece)
                if threading.current_thread() is not threading.main_thread():
                    self._heard.wait(60)  # the main thread is the one that hears it
            if self._stopped:
                break
            if isinstance(piece, str):
                said += piece
                yield TextDelta(piece)
        if said or not self._stopped:
            user = turn.message
            answer = Message("assistant", said, interrupted=self._stopped)
            self.messages += (user, answer)
        yield self._done("interrupted" if self._stopped else self.reason, tokens, len(said.split()))

    def interrupt(self) -> None:
        self._stopped = True
        self._heard.set()

    def restore(self, messages: tuple[Message, ...]) -> None:
        self.messages = messages

    def clear(self) -> None:
        self.messages = ()

    def close(self) -> None:
        self.closed = True

    def _done(self, reason: StopReason, tokens: int, output: int) -> Done:
        counts = TokenCounts(tokens, 264 * len(self.asked[-1][0].pictures), 0, output)
        timing = Timing(1.0, 0.5, 0.25, tokens / 0.5, output / 0.25)
        return Done(reason, 42, counts, timing, MemoryUse(3_000_000, 2_000_000))
