"""A session without a model, and a way to run the command line as a process would."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from rqchat.cli import app, open_session
from rqchat.cli.chat import run as chat_run
from rqchat.cli.chat.chat import Chat
from rqchat.engine.conversation import ContextPart, Message, UserTurn
from rqchat.engine.events import (
    Done,
    Event,
    LoadProgress,
    MemoryUse,
    ModelFacts,
    Notice,
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
from rqchat.errors import ContextLengthError, RqchatError
from tests.cli.keyboard import Keyboard

CTRL_C, CTRL_D, CTRL_J, ENTER = "\x03", "\x04", "\n", "\r"
Talk = Callable[..., tuple[str, str]]

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
    ) -> Iterator[Event]:
        self.asked.append((turn, sampling))
        self.schema = schema
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        tokens = self.count_tokens(turn)
        if tokens > self.context_tokens:
            raise ContextLengthError(
                f"{tokens} tokens are more than {self.context_tokens}",
                input_tokens=tokens,
                context_tokens=self.context_tokens,
            )
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
                    self._heard.wait(20)  # the main thread is the one that hears it
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


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """The session that every command opens."""
    fake = FakeSession()

    def open_fake(
        settings: Settings, system: str | None, on_event: Callable[[Event], None]
    ) -> FakeSession:
        on_event(Notice("no GPU found: using the pocket model"))
        on_event(LoadProgress("weights", 1, 2))
        if fake.opening_failure is not None:
            raise fake.opening_failure
        fake.settings, fake.system = settings, system
        return fake

    monkeypatch.setattr(open_session, "open_session", open_fake)
    monkeypatch.delenv("RQCHAT_MODEL", raising=False)
    monkeypatch.delenv("RQCHAT_VRAM", raising=False)
    monkeypatch.setenv("RQCHAT_CONFIG", "/nowhere/config.toml")
    return fake


class Stdin(io.TextIOWrapper):
    """Standard input with `data` piped in, or a silent terminal where there is none."""

    def __init__(self, data: bytes | None) -> None:
        super().__init__(io.BytesIO(data or b""), encoding="utf-8")
        self._is_terminal = data is None

    def isatty(self) -> bool:
        return self._is_terminal


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("ask", "Hello", stdin=b"...")`: exit code, standard output, standard error."""

    def run_main(*arguments: str, stdin: bytes | None = None) -> Result:
        monkeypatch.setattr(sys, "stdin", Stdin(stdin))
        with pytest.raises(SystemExit) as left:
            app.main(arguments)
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Result(left.value.code, captured.out, captured.err)

    return run_main


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    """A 64 x 48 PNG whose name has a blank."""
    from PIL import Image

    path = tmp_path / "my cat.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


class NoGpuError(RqchatError):
    """An error with an exit code of its own."""

    exit_code = 3


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Keyboard]:
    """A keyboard, on a terminal that draws nothing, with a home of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(chat_run, "is_terminal", lambda name: True)
    open_editor = chat_run._open_editor
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        keyboard = Keyboard(pipe)

        def open_with_keyboard(chat: Chat, *, from_terminal: bool) -> object:
            return keyboard.type_into(chat, open_editor(chat, from_terminal=from_terminal))

        monkeypatch.setattr(chat_run, "_open_editor", open_with_keyboard)
        yield keyboard


@pytest.fixture
def talk(
    keys: Keyboard, run: Run, session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> Talk:
    """`talk("Hello", "/stats")`: types the lines, clears what is left, leaves; both outputs."""

    session.before_signal = keys.wait_for_prompt

    def type_and_leave(*lines: str) -> tuple[str, str]:
        keys.send_text("".join(line + ENTER for line in lines) + CTRL_C + CTRL_D)
        result = run()
        assert result.code == 0
        return result.out, result.err

    return type_and_leave


def texts(session: FakeSession) -> list[str]:
    return [turn.text for turn, _ in session.asked]
