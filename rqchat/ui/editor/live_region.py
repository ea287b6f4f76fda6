"""The region above the prompt: lines written for good, then a part that may still change."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from prompt_toolkit.application import Application
from prompt_toolkit.filters import Condition, is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout import ConditionalContainer, Dimension, FormattedTextControl, Window
from rich.cells import cell_len

from rqchat.ui.console import Drawing, Stream, write_text
from rqchat.ui.text import MOST_COLUMNS, one_row, tail

__all__ = ["LiveRegion"]

_ROWS_BELOW = 6  # for what is typed, the completion menu and the status line


class LiveRegion:
    """Takes text from any thread and shows it above the prompt, in the prompt's own thread.

    While no prompt is shown, lines are written at once.

    Args:
        above: what is shown above the part that may change, for so many columns: whole rows.
        below: lines that are shown below it.
    """

    def __init__(
        self, above: Callable[[int], list[tuple[str, str]]], below: Callable[[], list[str]]
    ) -> None:
        self._above, self._below = above, below
        self._lock = threading.RLock()
        self._app: Application[str] | None = None
        self._streams: dict[Stream, TextIO] = {"out": sys.stdout, "err": sys.stderr}
        self._lines: list[tuple[Stream, str | Drawing]] = []
        self._text = self._style = self._mark = ""
        self._error: Exception | None = None
        self._scheduled = self._paused = False
        self.container = ConditionalContainer(
            Window(
                FormattedTextControl(self._fragments),
                height=lambda: Dimension(max=self._size()[1]),
                dont_extend_height=True,
            ),
            Condition(lambda: bool(self._fragments())) & ~is_done,
        )

    def put(self, stream: Stream, text: str | Drawing) -> None:
        """Write whole lines above the prompt, for good.

        Raises:
            ReaderGoneError: standard output had been closed at an earlier line.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            self._lines.append((stream, text))
            self._schedule()

    def draw(self, text: str, style: str, mark: str = "") -> None:
        """Show `text` in place of what was shown before it; an empty one shows nothing."""
        with self._lock:
            if (text, style, mark) != (self._text, self._style, self._mark):
                self._text, self._style, self._mark = text, style, mark
                self._schedule()

    def refresh(self) -> None:
        """Something else on the screen has changed."""
        with self._lock:
            self._schedule()

    @contextmanager
    def below(self, app: Application[str]) -> Iterator[None]:
        """Within, `app` shows the prompt; to be entered before anything replaces the streams."""
        with self._lock:
            self._app = app
            # The real ones: within a prompt, prompt-toolkit puts a proxy in their place
            self._streams = {"out": sys.stdout, "err": sys.stderr}
        try:
            yield
        finally:
            with self._lock:
                self._app, self._scheduled = None, False
                self._write()

    def pause(self, paused: bool) -> None:
        """While paused, another program has the terminal, and nothing is shown."""
        self._paused = paused
        self.refresh()

    def _schedule(self) -> None:
        """Ask the prompt's thread to show what has come; without a prompt write it here."""
        loop = self._app.loop if self._app is not None else None
        if loop is None:
            self._write()
        elif not self._scheduled:
            self._scheduled = True
            loop.call_soon_threadsafe(self._show)

    def _show(self) -> None:
        with self._lock:
            self._scheduled = False
            app = self._app
            if app is None or not app.is_running or self._paused:
                return
            if self._lines:
                # Or the lines would be written over the prompt, which is drawn again below them
                app.renderer.erase()
                self._write()
            app.invalidate()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        try:
            for stream, text in lines:
                write_text(self._streams[stream], text)
        except Exception as error:  # `put` raises it next time; the prompt cannot handle it
            self._error = error

    def _size(self) -> tuple[int, int]:
        """Columns, and rows for the part that may change."""
        if self._app is None:
            return 80, 1
        size = self._app.output.get_size()
        return max(size.columns, 1), max(size.rows - _ROWS_BELOW, 1)

    def _fragments(self) -> StyleAndTextTuples:
        columns, rows = self._size()
        parts: StyleAndTextTuples = [*self._above(columns)]
        below = [one_row(line, columns) for line in self._below()]
        text = self._text.rstrip("\n")
        if text:
            parts += self._rows_of(text, columns, max(rows - len(below), 1))
        parts += [("class:waiting", f"{line}\n") for line in below]
        if parts:
            style, last = parts[-1][:2]
            parts[-1] = (style, last.removesuffix("\n"))
        return parts

    def _rows_of(self, text: str, columns: int, rows: int) -> StyleAndTextTuples:
        """The end of the part that may change; its first row behind the mark."""
        style, mark = f"class:{self._style}" if self._style else "", self._mark
        margin = cell_len(mark)
        if mark:
            columns = max(min(columns, MOST_COLUMNS) - margin, 1)
        parts: StyleAndTextTuples = []
        for line in tail(text, columns, rows).split("\n"):
            parts += [("class:mark", mark if line else ""), (style, f"{line}\n")]
            mark = " " * margin if line else mark  # the gap above a block has none
        return parts
