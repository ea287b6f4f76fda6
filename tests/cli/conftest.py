"""A session without a model, and a way to run the command line as a process would."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from rqchat.cli import app, open_session
from rqchat.cli.chat import run as chat_run
from rqchat.cli.chat.chat import Chat
from rqchat.engine.events import (
    Event,
    LoadProgress,
    Notice,
)
from rqchat.engine.settings import Settings
from rqchat.errors import RqchatError
from rqchat.ui.looks.theme import Theme
from tests.cli.fake_session import FakeSession
from tests.cli.keyboard import Keyboard

CTRL_C, CTRL_D, CTRL_J, ENTER = "\x03", "\x04", "\n", "\r"
Talk = Callable[..., tuple[str, str]]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    """The session that every command opens."""
    fake = FakeSession()

    def open_fake(
        settings: Settings, system: str | None, on_event: Callable[[Event], None]
    ) -> FakeSession:
        on_event(Notice("no GPU found: using the pocket model"))
        on_event(LoadProgress("loading weights", 1, 2))
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

        def open_with_keyboard(chat: Chat, theme: Theme, *, from_terminal: bool) -> object:
            return keyboard.type_into(chat, open_editor(chat, theme, from_terminal=from_terminal))

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
