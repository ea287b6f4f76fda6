"""Loads the model in a thread while the user types, and switches to another one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from rqchat.cli import open_session
from rqchat.cli.open_session import BackgroundOpening
from rqchat.engine.conversation import Message
from rqchat.engine.events import Event, LoadProgress, Notice
from rqchat.engine.session_api import Session
from rqchat.engine.settings import Settings
from rqchat.errors import RqchatError
from rqchat.ui.console import Screen
from rqchat.ui.progress import load_status

__all__ = ["BackgroundModel", "ModelHost", "SessionStart"]


@dataclass(frozen=True, slots=True)
class SessionStart:
    """The state that a session begins with: of a saved conversation, or of the model before.

    Attributes:
        messages: the conversation so far.
        system: instructions above it.
        thinking: whether the model thinks first.
        former: how the model before was picked, to go back to it; None for the first one.
    """

    messages: tuple[Message, ...] = ()
    system: str | None = None
    thinking: bool = False
    former: Settings | None = None


class ModelHost(Protocol):
    """The chat that a model is opened for. Its methods are called in the thread that opens it."""

    def opened(self, session: Session) -> None:
        """The session is there; an RqchatError is reported, and it stays."""

    def report(self, error: Exception) -> None:
        """Show what went wrong."""

    def wake(self) -> None:
        """Something has changed."""


class BackgroundModel:
    """The one model of a chat, which may still be loading.

    Attributes:
        settings: how it was picked.
        loading: how loading goes, in a line.
        loaded_share: how much of it is done, from 0 to 1.
        is_loading: until the session is handed to the host.
    """

    def __init__(
        self, screen: Screen, settings: Settings, start: SessionStart, host: ModelHost
    ) -> None:
        self._screen, self._host = screen, host
        self._waiting = False
        self._prepare(settings, start)

    def load(self) -> None:
        """Begin to load the model."""
        self._opening.start()

    @property
    def session(self) -> Session | None:
        """The session once it is there."""
        return self._opening.session

    @property
    def is_pending(self) -> bool:
        """Whether the model is still loading."""
        return self._opening.is_pending

    @property
    def error(self) -> BaseException | None:
        """Why there is no session, where loading failed."""
        return self._opening.error

    @property
    def system(self) -> str | None:
        """The instructions above the conversation."""
        session = self.session
        return session.system if session else self._start.system

    def wait(self) -> Session:
        """The session; while it is waited for, the screen shows how loading goes.

        Raises:
            RqchatError: it cannot be opened.
        """
        if self.session is None:
            # From now on `_on_load`, in its own thread, draws the progress that it otherwise keeps
            self._waiting = True
            self._screen.status(self.loading)
        try:
            return self._opening.wait()
        finally:
            if self._waiting:
                self._waiting = False
                self._screen.clear_status()

    def switch(self, settings: Settings) -> None:
        """Load another model and go on with it; where it cannot be opened, with this one again.

        Raises:
            RqchatError: the present model cannot be opened.
        """
        session = self.wait()
        start = SessionStart(session.messages, session.system, session.thinking, self.settings)
        session.close()
        del session  # the last reference: two models do not fit on most devices
        self._opening.drop()
        self._prepare(settings, start)
        self.load()

    def _prepare(self, settings: Settings, start: SessionStart) -> None:
        self.settings, self._start = settings, start
        self.loading, self.loaded_share, self.is_loading = "loading", 0.0, True
        self._opening = BackgroundOpening(lambda: self._open(start), self._host.wake)

    def _open(self, start: SessionStart) -> Session:
        try:
            session = open_session.open_session(self.settings, start.system, self._on_load)
        except RqchatError as error:
            if start.former is None:
                raise
            # The conversation is worth more than the switch: go back rather than end the chat
            self._host.report(error)
            self._screen.note("going back to the model before", "warning")
            self.settings = start.former
            session = open_session.open_session(start.former, start.system, self._on_load)
        if start.messages:
            session.restore(start.messages)
        session.thinking = start.thinking
        import_module("rqchat.ui.stream")  # so that the first answer does not wait for it
        self.is_loading = False
        try:
            self._host.opened(session)
        except RqchatError as error:
            self._host.report(error)
        return session

    def _on_load(self, event: Event) -> None:
        match event:
            case Notice(text):
                self._screen.note(text)
            case LoadProgress():
                self.loading = load_status(event)
                self.loaded_share = event.done_bytes / max(event.total_bytes, 1)
                if self._waiting:
                    self._screen.status(self.loading)
                self._host.wake()
