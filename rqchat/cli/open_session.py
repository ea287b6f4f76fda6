"""Opens a chat session, in the foreground or in a thread; torch is imported here alone.

Tests put a fake in place of `open_session`; commands know a session by `Session` alone.
"""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rqchat.cli import app_folders
from rqchat.engine.events import Event
from rqchat.engine.session_api import Session
from rqchat.engine.settings import Settings

__all__ = [
    "BackgroundOpening",
    "Stop",
    "interruptible",
    "leaving_on_signals",
    "open_in_foreground",
    "open_session",
]

# Whoever sends one of these wants an end: a service manager, a shell whose window was closed
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_SIGNALLED = 128  # plus the number of the signal is the exit code, as shells have it


def open_session(
    settings: Settings, system: str | None, on_event: Callable[[Event], None]
) -> Session:
    """Plan and load; this is where torch is imported, but for a model at a server.

    Raises:
        RqchatError: the model cannot be had, does not fit, or cannot be read.
    """
    if (address := settings.remote) is not None:
        with _no_garbage_collection():
            from rqchat.engine.remote.remote_session import RemoteSession

        return RemoteSession.open(address, settings, system=system, on_event=on_event)
    with _no_garbage_collection():
        from rqchat.engine.lean_import import import_transformers

        import_transformers()  # before the next two, which would import it whole
        from rqchat.engine.document_cache.cache_folder import CacheFolder
        from rqchat.engine.session import ChatSession

        keeps_nothing = settings.no_cache or settings.no_log
        path = None if keeps_nothing else app_folders.kv_cache_folder()
        folder = CacheFolder(path, settings.cache_bytes) if path else None
        return ChatSession.open(settings, system=system, on_event=on_event, folder=folder)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Garbage collection is off within: it takes a quarter of the time of importing torch."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class BackgroundOpening:
    """Opens a session in a thread, so that typing can begin at once.

    The thread is a daemon: leaving before the model is there does not wait for it.
    """

    def __init__(self, opener: Callable[[], Session], on_end: Callable[[], None]) -> None:
        """`on_end` is called in the thread when the session is there or cannot be had."""
        self._opener, self._on_end = opener, on_end
        self._session: Session | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to open the session."""
        threading.Thread(target=self._open, name="rqchat-opening", daemon=True).start()

    @property
    def session(self) -> Session | None:
        """The session once it is there."""
        return self._session

    @property
    def is_pending(self) -> bool:
        """Whether there is neither a session nor an error yet."""
        return self._session is None and self._error is None

    @property
    def error(self) -> BaseException | None:
        """Why there is no session, where opening failed."""
        return self._error

    def wait(self) -> Session:
        """The session, waited for.

        Raises:
            BaseException: whatever opening raised, an RqchatError as a rule.
        """
        # Without a timeout Ctrl-C would not be heard on every platform; and a join that is
        # interrupted takes the thread for dead.
        while not self._ended.wait(0.1):
            pass
        if self._error is not None:
            raise self._error
        assert self._session is not None
        return self._session

    def drop(self) -> None:
        """Forget the session, so that its memory is free for another."""
        self._session = None

    def _open(self) -> None:
        try:
            self._session = self._opener()
        except BaseException as error:
            self._error = error
        # First, so that whoever is woken finds the end noted.
        self._ended.set()
        self._on_end()


def open_in_foreground(
    settings: Settings, system: str | None, on_event: Callable[[Event], None]
) -> Session:
    """`open_session`, with a Ctrl-C that no library's catch-all can swallow while it is imported.

    Raises:
        RqchatError: the model cannot be had, does not fit, or cannot be read.
        KeyboardInterrupt: Ctrl-C was pressed meanwhile, at the latest when the session is there.
    """
    pressed = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    with _handled(on_interrupt, signal.SIGINT):
        session = open_session(settings, system, on_event)
    if pressed:
        raise KeyboardInterrupt
    return session


@dataclass(slots=True)
class Stop:
    """What asked an answer to stop.

    Attributes:
        number: of the signal; Ctrl-C is SIGINT.
    """

    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """Of a process whose answer was stopped so."""
        return _SIGNALLED + self.number


@contextmanager
def interruptible(session: Session) -> Iterator[Stop]:
    """A context in which Ctrl-C, SIGTERM or SIGHUP ask the session to stop; a second one raises.

    The session then ends its answer with `Done(stop_reason="interrupted")` and keeps the text.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed again.
        SystemExit: another signal came again.
    """
    stop, pressed = Stop(), False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        stop.number = number
        if pressed:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(stop.exit_code)
        pressed = True
        session.interrupt()

    with _handled(on_interrupt, signal.SIGINT, *_ENDING):
        yield stop


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """A context that SIGTERM and SIGHUP leave in good order.

    Raises:
        SystemExit: one of them came.
    """

    def on_end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_SIGNALLED + number)

    with _handled(on_end, *_ENDING):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """A context in which these signals call `handler`.

    Where one is ignored, as Ctrl-C for `rqchat ask ... &` and SIGHUP after nohup, it stays so.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number, former in before.items() if former is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
