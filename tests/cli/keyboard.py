"""Keys for the chat in this process: each line when the one before it has been dealt with."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

from prompt_toolkit.input import PipeInput

from rqchat.cli.chat.chat import Chat

__all__ = ["Keyboard"]

# Up to an Enter that sends: not one after Escape, nor the one that ends a search begun by Ctrl-R
_LINE = re.compile("(?:\x12[^\r]*\r|\x1b\r|[^\r])*\r|[^\r]+$", re.DOTALL)
_WAIT_S = 180.0


class Keyboard:
    """Types into the editor of a chat as a person would who waits for every answer."""

    def __init__(self, pipe: PipeInput) -> None:
        self._pipe = pipe
        self._text = ""
        self._is_reading: Callable[[], bool] = lambda: False

    def wait_for_prompt(self) -> None:
        """Wait until keys are read: as a prompt comes up, asyncio cannot be interrupted cleanly."""
        _wait(self._is_reading)

    def send_text(self, text: str) -> None:
        """To be typed once the chat runs."""
        self._text += text

    def press(self, text: str) -> None:
        """Typed now, whatever goes on."""
        self._pipe.send_text(text)

    def type_into(self, chat: Chat, editor: Any) -> Any:
        """Types from now on; returns `editor`, whose readings are noted."""
        lines, self._text = _LINE.findall(self._text), ""
        read, taken, left = editor.read, threading.Event(), threading.Event()

        def noted() -> str:
            try:
                line: str = read()
            except BaseException:
                left.set()
                raise
            finally:
                taken.set()
            return line

        def is_reading() -> bool:
            app = editor._app
            return bool(app.is_running and app.future is not None and not app.future.done())

        def is_idle() -> bool:
            return is_reading() and not chat.must_wait("a line") and not editor._waiting

        def type_lines() -> None:
            for line in lines:
                _wait(lambda: left.is_set() or is_idle())
                taken.clear()
                self._pipe.send_text(line)
                if line.endswith("\r"):
                    _wait(taken.is_set)

        editor.read, self._is_reading = noted, is_reading
        threading.Thread(target=type_lines, daemon=True).start()
        return editor


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.002)
