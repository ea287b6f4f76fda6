"""The line editor of the chat: history, completion, multi-line input, the status line.

Enter sends, Alt-Enter and Ctrl-J start a new line, Ctrl-R searches the history, Tab completes
commands and paths. Ctrl-C clears what is typed (Up brings it back); at an empty prompt it hints,
and twice within `LEAVE_WITHIN_S` it leaves. Ctrl-D at an empty prompt leaves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style

from rqchat.errors import InputError
from rqchat.ui.text import safe_line

__all__ = ["LEAVE_WITHIN_S", "Completable", "LineEditor", "SlashCompleter"]

LEAVE_WITHIN_S = 2.0
_LEAVE_HINT = "Ctrl-C once more leaves, as do Ctrl-D and /exit"
_REDRAW_S = 0.2
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "prompt": "bold", "continuation": "dim"})


class Completable(Protocol):
    """What Tab has to know of a slash command."""

    @property
    def summary(self) -> str:
        """What it does."""

    @property
    def suggest(self) -> Callable[[str], Iterable[tuple[str, str]]] | None:
        """From what is typed after it to texts and their meanings; None offers files."""


class SlashCompleter(Completer):
    """Completes `/comm`, and after a command whatever that command takes.

    Args:
        commands: the commands by name, with slash.
    """

    def __init__(self, commands: Mapping[str, Completable]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """The completions at the cursor; none outside a slash command."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, blank, typed = text.partition(" ")
        command = self._commands.get(name)
        if not blank:
            yield from _matching(((n, c.summary) for n, c in self._commands.items()), name)
        elif command is not None and command.suggest is None:
            path = Document(typed, len(typed))
            yield from self._paths.get_completions(path, complete_event)
        elif command is not None and command.suggest is not None:
            yield from _matching(command.suggest(typed), typed)


class LineEditor:
    """Reads what the user types, line by line.

    Args:
        history_path: where typed lines are kept across runs; None, or a place that cannot be
            written, keeps them for this run only.
        commands: the slash commands by name.
        status: the text of the status line, asked for at every redraw.
        from_terminal: read keys from the terminal although standard input is something else.
        clock: seconds, for the time between two Ctrl-C.

    Raises:
        InputError: `from_terminal` where there is no terminal.
    """

    def __init__(
        self,
        *,
        history_path: Path | None,
        commands: Mapping[str, Completable],
        status: Callable[[], str],
        from_terminal: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._clock = clock
        self._ctrl_c_at_s = float("-inf")
        self._session: PromptSession[str] = PromptSession(
            history=_open_history(history_path),
            completer=SlashCompleter(commands),
            complete_while_typing=Condition(self._typing_command),
            key_bindings=self._bindings(),
            bottom_toolbar=self._toolbar,
            multiline=True,
            prompt_continuation=[("class:continuation", "  ")],
            style=_STYLE,
            input=_terminal_keys() if from_terminal else None,
            reserve_space_for_menu=4,
        )

    def read(
        self, *, draft: str = "", give_up: Callable[[], BaseException | None] | None = None
    ) -> str:
        """What the user typed and sent, without blanks around it.

        Args:
            draft: text that stands in the line already.
            give_up: asked at every redraw; an exception that it returns ends the reading.

        Raises:
            EOFError: the user wants to leave.
        """

        def look(app: Application[str]) -> None:
            error = give_up() if give_up and app.future and not app.future.done() else None
            if error is not None:
                app.exit(exception=error)

        app = self._session.app
        if give_up:
            app.after_render += look
        try:
            with patch_stdout(raw=True):
                text = self._session.prompt(
                    [("class:prompt", "> ")],
                    default=draft,
                    refresh_interval=_REDRAW_S if give_up else 0,
                )
        finally:
            if give_up:
                app.after_render -= look
        return text.strip()

    def _typing_command(self) -> bool:
        text = self._session.default_buffer.text
        return text.startswith("/") and " " not in text and "\n" not in text

    def _toolbar(self) -> StyleAndTextTuples:
        is_hinting = self._clock() - self._ctrl_c_at_s <= LEAVE_WITHIN_S
        text = _LEAVE_HINT if is_hinting else self._status()
        return [("class:bottom-toolbar", safe_line(text))]

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        editing = has_focus(DEFAULT_BUFFER)

        @bindings.add("enter", filter=editing)
        def _send(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @bindings.add("escape", "enter", filter=editing)
        @bindings.add("c-j", filter=editing)
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @bindings.add("c-c", filter=editing)
        def _interrupt(event: KeyPressEvent) -> None:
            self._on_ctrl_c(event)

        return bindings

    def _on_ctrl_c(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.text:
            buffer.append_to_history()
            buffer.reset()
            return
        now_s = self._clock()
        if now_s - self._ctrl_c_at_s <= LEAVE_WITHIN_S:
            event.app.exit(exception=EOFError())
        self._ctrl_c_at_s = now_s


def _terminal_keys() -> Input:
    """The keyboard of the controlling terminal.

    Raises:
        InputError: there is none.
    """
    try:
        return create_input(os.fdopen(os.open("/dev/tty", os.O_RDONLY)))
    except OSError:
        raise InputError("there is no terminal to type in; use rqchat ask instead") from None


def _matching(choices: Iterable[tuple[str, str]], typed: str) -> Iterable[Completion]:
    for text, meaning in choices:
        if text.startswith(typed):
            yield Completion(text, -len(typed), display_meta=safe_line(meaning))


def _open_history(path: Path | None) -> History:
    """The history file, readable by its owner alone; in memory where that cannot be had."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.read_bytes()
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(str(path))


class _KeptHistory(FileHistory):
    """A history file whose disk may fill up while we run: the line is kept in memory then."""

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError:
            return
