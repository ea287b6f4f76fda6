"""The two outputs of the process and the one theme.

The answer goes to standard output through `Screen.answer`; everything else goes to standard error
through `Screen.note` and its like. Each stream is asked on its own whether it is a terminal.
`NO_COLOR`, `FORCE_COLOR` and `TERM=dumb` are rich's to obey, and it does.
"""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.theme import Theme

from rqchat.ui.text import safe_line, safe_text

__all__ = ["ReaderGoneError", "Renderable", "Screen", "is_terminal", "keys_kept"]

Renderable = RenderableType  # for those who may not know rich

_STYLES = {
    "note": "dim",
    "warning": "yellow",
    "error": "bold red",
    "good": "green",
    "bad": "bold red",
    "chosen": "bold green",
    "thought": "dim italic",
    "name": "bold",
}


class ReaderGoneError(Exception):
    """Whoever read standard output has closed it, as `| head` does; there is nobody to tell."""


class Screen:
    """Standard output for the answer, standard error for the rest.

    Args:
        quiet: drop notes and progress; warnings and errors stay.
        width: columns of both consoles; None asks the terminal.
    """

    def __init__(self, *, quiet: bool = False, width: int | None = None) -> None:
        self.quiet = quiet
        self.out = _console(stderr=False, width=width)
        self.err = _console(stderr=True, width=width)
        self._status_shown = False

    @property
    def can_rewrite(self) -> bool:
        """Whether standard error is a terminal whose last line can be drawn again."""
        return self.err.is_terminal and not self.err.is_dumb_terminal and not self.quiet

    def answer(self, text: str) -> None:
        """Write a piece of the answer to standard output at once, control characters removed.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        self.clear_status()
        _write_out(safe_text(text))

    def answer_raw(self, text: str) -> None:
        """Write a piece of the answer as it is; a terminal still gets no control characters.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        self.clear_status()
        _write_out(safe_text(text) if self.out.is_terminal else text)

    def table(self, renderable: RenderableType) -> None:
        """Write a table to standard output.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        self.clear_status()
        with self.out.capture() as capture:
            self.out.print(renderable)
        _write_out(capture.get())

    def note(self, text: str, style: str = "note") -> None:
        """One line on standard error, unless quiet."""
        if not self.quiet:
            self._line(text, style)

    def warning(self, text: str) -> None:
        """One line on standard error, quiet or not."""
        self._line(text, "warning")

    def error(self, text: str) -> None:
        """One line on standard error, quiet or not."""
        self._line(text, "error")

    def aside(self, renderable: RenderableType) -> None:
        """A table on standard error."""
        self.clear_status()
        self.err.print(renderable)

    def thought(self, text: str) -> None:
        """A piece of a thought on standard error, dimmed."""
        self.clear_status()
        self.err.print(safe_text(text), style="thought", end="", soft_wrap=True)

    def status(self, text: str) -> None:
        """Show `text` as the last line of standard error in place of the previous status."""
        if self.can_rewrite:
            self.err.file.write(f"\r\x1b[2m{text[: self.err.width - 1]}\x1b[0m\x1b[K")
            self.err.file.flush()
            self._status_shown = True

    def clear_status(self) -> None:
        """Remove the status line, so that something lasting can be written."""
        if self._status_shown:
            self.err.file.write("\r\x1b[K")
            self.err.file.flush()
            self._status_shown = False

    def _line(self, text: str, style: str) -> None:
        self.clear_status()
        self.err.print(safe_line(text), style=style, soft_wrap=True)


def is_terminal(name: str) -> bool:
    """Whether `stdin`, `stdout` or `stderr` is a terminal; a closed stream is none."""
    stream = getattr(sys, name)
    return stream is not None and stream.isatty()


@contextmanager
def keys_kept() -> Iterator[None]:
    """Within, keys typed while nobody reads them wait unseen for the line editor.

    Without it the terminal itself would show them, `^C` too, in the middle of an answer, turn
    Enter into Ctrl-J, swallow Ctrl-D, and drop all of it at Ctrl-C, which still interrupts.
    """
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, AttributeError, termios.error):
        yield
        return
    kept = list(before)
    kept[0] &= ~termios.ICRNL
    kept[3] = kept[3] & ~(termios.ECHO | termios.ICANON) | termios.NOFLSH
    termios.tcsetattr(terminal, termios.TCSADRAIN, kept)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _console(*, stderr: bool, width: int | None) -> Console:
    return Console(
        stderr=stderr, width=width, theme=Theme(_STYLES), markup=False, emoji=False, highlight=False
    )


def _write_out(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes standard output once more when it ends; let that succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGoneError from None
