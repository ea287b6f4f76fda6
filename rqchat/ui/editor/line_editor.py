"""The line editor of the chat: it can be typed in while the model loads and while it answers.

Enter sends; what is sent while something is at work waits until that is done. Alt-Enter and Ctrl-J
start a new line, as Enter does after an open triple quote. Ctrl-R searches the history, Tab
completes commands and what they take, Ctrl-X Ctrl-E opens the line in $VISUAL or $EDITOR. Ctrl-C
stops the answer, gives back what waits, or clears what is typed (Up brings it back); at an empty
prompt it hints, and twice within `LEAVE_WITHIN_S` it leaves. Ctrl-D at an empty prompt leaves.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

from prompt_toolkit.application import Application
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPressEvent
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.key_binding.vi_state import InputMode
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.utils import is_dumb_terminal

from rqchat.ui.editor.completion import Completable, SlashCompleter
from rqchat.ui.editor.folded_pastes import Pastes
from rqchat.ui.editor.history import open_history
from rqchat.ui.editor.input_field import PROMPT, open_field
from rqchat.ui.editor.keys import make_bindings
from rqchat.ui.editor.live_region import LiveRegion
from rqchat.ui.looks.theme import Theme, theme_of
from rqchat.ui.text import one_row

__all__ = ["LEAVE_WITHIN_S", "LineEditor", "Work"]

LEAVE_WITHIN_S = 2.0
_LEAVE_HINT = "Ctrl-C once more leaves, as do Ctrl-D and /exit"
_QUOTES = '"""'


class Work(Protocol):
    """What goes on behind the prompt."""

    def status(self, columns: int) -> str:
        """The status line, asked for at every redraw; it should fit into `columns`."""

    def heading(self, columns: int) -> list[tuple[str, str]]:
        """What is shown above all, in whole rows of so many columns, while the model loads."""

    def attached(self) -> str:
        """What goes along with the next line, shown above the prompt; empty without any."""

    def must_wait(self, line: str) -> bool:
        """Whether `line` cannot be taken before what goes on now is done."""

    def is_answering(self) -> bool:
        """Whether there is an answer that can be stopped."""

    def stop(self) -> None:
        """Stop the answer."""

    def failure(self) -> BaseException | None:
        """What ends the reading."""


class LineEditor:
    """Reads what the user types, line by line.

    Args:
        work: what goes on meanwhile.
        history_path: where typed lines are kept across runs; None, or a place that cannot be
            written, keeps them for this run only.
        commands: the slash commands by name.
        theme: the colours; None are those that the environment asks for.
        vi: vi's keys in place of Emacs's.
        from_terminal: read keys from the terminal although standard input is something else.
        clock: seconds, for the time between two Ctrl-C.

    Attributes:
        live: where others write while the prompt is shown.

    Raises:
        InputError: `from_terminal` where there is no terminal.
    """

    def __init__(
        self,
        work: Work,
        *,
        history_path: Path | None,
        commands: Mapping[str, Completable],
        theme: Theme | None = None,
        vi: bool = False,
        from_terminal: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._clock = clock
        self._ctrl_c_at_s = float("-inf")
        self._draft = ""
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()
        self._pastes = Pastes()
        self.live = LiveRegion(work.heading, self._lines_above)
        self._session = open_field(
            history=open_history(history_path, self._pastes.unfold),
            completer=SlashCompleter(commands),
            bindings=make_bindings(self),
            above=self.live.container,
            status=self._status,
            vi=vi,
            from_terminal=from_terminal,
            theme=theme or theme_of(),
        )

    @property
    def is_live(self) -> bool:
        """Whether others can write while the prompt is shown; a dumb terminal cannot."""
        return not is_dumb_terminal()

    @property
    def vi(self) -> bool:
        """Whether the keys are vi's; settable."""
        return self._session.editing_mode == EditingMode.VI

    @vi.setter
    def vi(self, on: bool) -> None:
        self._session.editing_mode = EditingMode.VI if on else EditingMode.EMACS

    def read(self) -> str:
        """What the user typed and sent, pastes unfolded, without blanks around it.

        Raises:
            EOFError: the user wants to leave.
            BaseException: what `Work.failure` returned.
        """
        with self._lock:
            draft, self._draft = self._draft, ""
        # `below` first: it looks for the real streams, which `patch_stdout` replaces.
        with self.live.below(self._app), patch_stdout() if self.is_live else nullcontext():
            text = self._session.prompt(PROMPT, default=draft, pre_run=self._begin)
        text = self._pastes.unfold(text).strip()
        if text.startswith(_QUOTES):
            text = text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip()
        return text

    def typed_before(self, keys: str) -> None:
        """Take `keys`, typed before there was a prompt, as if they were pressed at the first."""
        pressed: list[KeyPress] = []
        parser = Vt100Parser(pressed.append)
        parser.feed_and_flush(keys)
        store_typeahead(self._app.input, pressed)

    def wake(self) -> None:
        """What goes on behind the prompt has changed. From any thread."""
        self._in_loop(self._look)

    def give_back(self, text: str) -> None:
        """Put `text` in front of what is typed. From any thread."""
        with self._lock:
            self._draft = _joined(text, self._draft)
        self._in_loop(self._take_draft)

    def send(self, event: KeyPressEvent) -> None:
        """Hand over what is typed; an open triple quote takes a new line instead."""
        buffer = event.current_buffer
        self._ctrl_c_at_s = float("-inf")  # the next one is a first one again
        text = buffer.text.strip()
        if text.startswith(_QUOTES) and text.count(_QUOTES) % 2:
            buffer.insert_text("\n")
        elif not (self.is_live and self._work.must_wait(text)):
            buffer.validate_and_handle()
        elif text:
            # As it was typed: its chips are unfolded when it is read
            self._waiting.append(buffer.text)
            buffer.append_to_history()
            buffer.reset()

    def interrupt(self, event: KeyPressEvent) -> None:
        """Stop, give back, clear or leave, whichever comes first."""
        buffer = event.current_buffer
        if self._waiting and not self._work.is_answering():
            self._retype(_joined("\n".join(self._waiting), buffer.text))
            self._waiting.clear()
        elif buffer.text and not self._work.is_answering():
            buffer.append_to_history()
            buffer.reset()
        elif self.interrupted():
            event.app.exit(exception=EOFError())
        else:
            self._work.stop()
            # The status line has shown a hint, and is drawn again when that is over
            asyncio.get_running_loop().call_later(LEAVE_WITHIN_S + 0.1, event.app.invalidate)

    def interrupted(self) -> bool:
        """Ctrl-C came while no line was read; whether it was the second in a row."""
        now_s = self._clock()
        is_second = now_s - self._ctrl_c_at_s <= LEAVE_WITHIN_S
        self._ctrl_c_at_s = now_s
        return is_second

    def cancel(self, event: KeyPressEvent) -> None:
        """Stop the answer."""
        self._work.stop()

    def is_working(self) -> bool:
        """Whether there is an answer to stop."""
        return self._work.is_answering()

    def paste(self, event: KeyPressEvent) -> None:
        """Insert what the terminal pasted; a big one as its chip."""
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        event.current_buffer.insert_text(self._pastes.fold(text))

    def rub_out(self, event: KeyPressEvent) -> None:
        """Delete the character before the cursor, or all of a chip."""
        buffer = event.current_buffer
        chip = self._pastes.chip_before(buffer.document.text_before_cursor)
        buffer.delete_before_cursor(max(chip, event.arg))

    def edit(self, event: KeyPressEvent) -> None:
        """Open what is typed, pastes unfolded, in the user's editor."""
        buffer = event.current_buffer
        self._retype(self._pastes.unfold(buffer.text))
        self.live.pause(True)
        task = buffer.open_in_editor()
        task.add_done_callback(lambda done: self.live.pause(False))

    @property
    def _app(self) -> Application[str]:
        return self._session.app

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(self._take_draft)  # what came back while the prompt was being set up
        loop.call_soon(self._look)

    def _take_draft(self) -> None:
        """Puts in front of what is typed what came back; runs in the prompt's own thread."""
        app = self._app
        if app.future is None or app.future.done():
            return  # the next prompt has it
        with self._lock:
            draft, self._draft = self._draft, ""
        if draft:
            self._retype(_joined(draft, self._session.default_buffer.text))

    def _look(self) -> None:
        """Ends the reading where it has to end; runs in the prompt's own thread."""
        app = self._app
        if app.future is None or app.future.done():
            return
        error = self._work.failure()
        if error is not None:
            app.exit(exception=error)
        elif self._waiting and not self._work.must_wait(self._waiting[0].strip()):
            # What is being typed makes way for the line that waited; the next prompt has it again.
            with self._lock:
                self._draft = _joined(self._draft, self._session.default_buffer.text)
            self._retype(self._waiting.popleft())
            app.exit(result=self._session.default_buffer.text)
        else:
            app.invalidate()

    def _in_loop(self, action: Callable[[], None]) -> None:
        loop = self._app.loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(action)

    def _retype(self, text: str) -> None:
        self._session.default_buffer.document = Document(text)

    def _lines_above(self) -> list[str]:
        lines = [f"waiting: {line}" for line in self._waiting]
        attached = self._work.attached()
        return [*lines, attached] if attached else lines

    def _status(self) -> StyleAndTextTuples:
        columns, mode = self._app.output.get_size().columns, ""
        if self.vi:
            normal = self._app.vi_state.input_mode == InputMode.NAVIGATION
            mode = f"{'NORMAL' if normal else 'INSERT'} | "
        is_hinting = self._clock() - self._ctrl_c_at_s <= LEAVE_WITHIN_S
        text = _LEAVE_HINT if is_hinting else self._work.status(columns - len(mode))
        return [("class:status", one_row(mode + text, columns))]


def _joined(first: str, second: str) -> str:
    return f"{first}\n{second}" if first and second else first + second
