"""The two outputs of the process.

The answer goes to standard output through `Screen.answer`; everything else goes to standard error
through `Screen.note` and its like. Each stream is asked on its own whether it is a terminal.
rich itself follows `NO_COLOR`, `FORCE_COLOR` and `TERM=dumb`.

This is the border to the terminal. What is drawn becomes safe after it was drawn, because decoders
such as Markdown's make control characters out of harmless text; and `write_text`, which is last,
lets no sequence through but colours. A small picture comes to it as pixels, of which it makes the
sequence itself. What the line editor draws passes `editor/safe_output.py`.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import sys
import termios
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme as RichTheme

from rqchat.errors import RqchatError
from rqchat.ui.looks.picture_protocols import picture_sequence, protocol_of
from rqchat.ui.looks.theme import Theme, theme_of
from rqchat.ui.looks.thumbnail import HalfBlocks, Thumbnail, make_thumbnail
from rqchat.ui.text import only_colours, safe_line, safe_text, tail, wrapped

if TYPE_CHECKING:  # it loads pillow, which the prompt does not wait for
    from rqchat.engine.inputs.pictures import Picture

__all__ = [
    "Drawing",
    "Live",
    "ReaderGoneError",
    "Renderable",
    "Screen",
    "Stream",
    "is_terminal",
    "write_text",
]

Stream = Literal["out", "err"]
Renderable = RenderableType  # for those who may not know rich

_PADDING = re.compile(r"(?: |\x1b\[[\d;]*m *\x1b\[0m)+$")
_PLAIN = str.maketrans(
    "·●━─█▓▒░▌…╱▏▎▍▋▊▉", "-*=-#=+-|./||||||"
)  # for streams that lack what we draw with
_BLOCK_COLOURS = ("256", "truecolor")  # with fewer a picture of half blocks is none
_USUAL_CELL = (10, 20)  # pixels, where the terminal does not say


class ReaderGoneError(Exception):
    """Whoever read standard output has closed it, as `| head` does; there is nobody to tell."""


class Live(Protocol):
    """A prompt that stays below everything that is written while the user may type in it."""

    def put(self, stream: Stream, text: str | Drawing) -> None:
        """Write whole lines above it, for good. From any thread."""

    def draw(self, text: str, style: str, mark: str = "") -> None:
        """Show `text`, which may still change, right above it; the text before it is gone.

        Its first row stands behind `mark`, the others as far to the right.
        """


@dataclass(frozen=True, slots=True)
class Drawing:
    """A small picture for a terminal that can show one.

    Attributes:
        protocol: `kitty`, `iterm2` or `sixel`.
        picture: what it shows.
    """

    protocol: str
    picture: Thumbnail


class Screen:
    """Standard output for the answer, standard error for the rest.

    Args:
        quiet: drop notes and progress; warnings and errors stay.
        width: columns of both consoles; None asks the terminal.
        theme: the colours; None are those that the environment asks for.

    Attributes:
        live: the prompt to write above, where there is one.
    """

    def __init__(
        self, *, quiet: bool = False, width: int | None = None, theme: Theme | None = None
    ) -> None:
        self.quiet = quiet
        self.live: Live | None = None
        self.theme = theme or theme_of()
        self.out = _console(stderr=False, width=width, theme=self.theme)
        self.err = _console(stderr=True, width=width, theme=self.theme)
        self._status_shown = False
        self._open_line = ""  # above a prompt, what has come of a line that has not ended

    @property
    def can_rewrite(self) -> bool:
        """Whether standard error is a terminal whose last line can be drawn again."""
        return self.err.is_terminal and not self.err.is_dumb_terminal and not self.quiet

    @property
    def can_style(self) -> bool:
        """Whether standard output is a terminal that shows bold and colours."""
        return self.out.is_terminal and not self.out.is_dumb_terminal

    def answer(self, text: str) -> None:
        """Write a piece of the answer to standard output at once, control characters removed.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        self._flow("out", text, "")

    def block(self, renderable: RenderableType, mark: str = "") -> None:
        """Write whole lines of the answer to standard output, without blanks around them.

        The first one stands behind `mark`, the others as far to the right.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        marked = _Marked(renderable, mark) if mark else renderable
        self._write("out", _unpadded(self.out, marked).strip("\n") + "\n")

    def code(self, line: Text) -> None:
        """Write one line of code to standard output; where it is too long the terminal breaks it.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        self._write("out", _rendered(self.out, line, soft_wrap=True))

    def answer_raw(self, text: str) -> None:
        """Write a piece of the answer as it is; a terminal still gets no control characters.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        self._write("out", safe_text(text) if self.out.is_terminal else text)

    def table(self, renderable: RenderableType) -> None:
        """Write a table to standard output.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        self._write("out", _unpadded(self.out, renderable))

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

    def bug(self, error: BaseException) -> None:
        """The traceback of an error that should not have happened, on standard error."""
        for line in "".join(traceback.format_exception(error)).splitlines():
            self.error(line)

    def redraw(self, lines: Iterable[str]) -> None:
        """Whole lines on standard error that a screen has drawn before, colours included."""
        self._write("err", "".join(f"{line}\n" for line in lines))

    def aside(self, renderable: RenderableType) -> None:
        """A table on standard error."""
        self._write("err", _unpadded(self.err, renderable))

    def picture(self, picture: Picture, setting: str) -> None:
        """A picture made small on standard error, where that is a terminal that can show it.

        Args:
            setting: `auto`, `kitty`, `iterm2`, `sixel`, `blocks` or `off`.
        """
        if setting == "off" or not self.can_rewrite or self.err.no_color:
            return
        protocol, columns = protocol_of(setting), self.err.width - 1
        if protocol != "blocks":
            cell = _cell_pixels() if protocol == "sixel" else _USUAL_CELL
            drawing = Drawing(protocol, make_thumbnail(picture, columns, cell=cell))
            self._write("err", drawing)
        elif self.err.color_system in _BLOCK_COLOURS:
            self.aside(HalfBlocks(make_thumbnail(picture, columns, cell=(1, 2))))

    def thought(self, text: str) -> None:
        """A piece of a thought on standard error, dimmed."""
        self._flow("err", text, "thought")

    def status(self, text: str) -> None:
        """Show one line that may still change, in place of what was shown before it."""
        # The last column stays free: filled, some terminals go on to the next line
        self._draw(set_cell_size(safe_line(text), self.err.width - 1).rstrip(), "note")

    def draft(self, text: str, style: str = "", mark: str = "") -> None:
        """Show a text that still grows, in place of what was shown before it.

        Above a prompt as much of its end as the screen can show, else the end of its last line.
        """
        if self.live is None:
            *_, text = text.rsplit("\n", 1)
            text = tail(text, self.err.width - 1, 1)
        self._draw(text, style, mark)

    def clear_status(self) -> None:
        """Remove the status line, so that something lasting can be written."""
        if self.live is not None:
            self.live.draw("", "")
        elif self._status_shown:
            write_text(sys.stderr, "", over=True)
            self._status_shown = False

    def _draw(self, text: str, style: str, mark: str = "") -> None:
        text = safe_text(text)
        if self.live is not None:
            self.live.draw(text, style, mark)
        elif self.can_rewrite:
            write_text(sys.stderr, self._styled(text, "note"), over=True)
            self._status_shown = True

    def _flow(self, stream: Stream, text: str, style: str) -> None:
        """A piece of a text that comes little by little; above a prompt by whole lines."""
        text = safe_text(text)
        if self.live is None:
            self._write(stream, self._styled(text, style))
            return
        lines, newline, self._open_line = (self._open_line + text).rpartition("\n")
        if newline:
            self.live.put(stream, self._styled(lines + newline, style))
        self.live.draw(self._open_line, style)

    def _line(self, text: str, style: str) -> None:
        line = safe_line(text)
        # Broken here, as rich would break long paths and addresses too, which are to be copied
        if self.err.is_terminal:
            line = wrapped(line, self.err.width)
        self._write("err", _rendered(self.err, Text(line, style=style), soft_wrap=True))

    def _styled(self, text: str, style: str) -> str:
        if not style:
            return text
        return _rendered(self.err, Text(text, style=style, end=""), soft_wrap=True)

    def _write(self, stream: Stream, text: str | Drawing) -> None:
        if self.live is not None:
            self.live.put(stream, text)
            return
        self.clear_status()
        write_text(sys.stdout if stream == "out" else sys.stderr, text)


def is_terminal(name: str) -> bool:
    """Whether `stdin`, `stdout` or `stderr` is a terminal; a closed stream is none."""
    stream = getattr(sys, name)
    return stream is not None and stream.isatty()


class _Stream(io.StringIO):
    """What rich asks a stream before it draws. Nothing is written to it: we write what was drawn,
    because rich would also write, and fail, where there is nothing to write."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read alone
        """What decides whether tables have lines or dashes."""
        return getattr(getattr(sys, self._name), "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return is_terminal(self._name)

    def write(self, text: str, /) -> int:
        return len(text)


class _Safe:
    """What `drawn` draws, without what a terminal would act on."""

    def __init__(self, drawn: RenderableType) -> None:
        self._drawn = drawn

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self._drawn, options):
            if not control:  # a link is an escape sequence with an address of somebody else's
                safe_style = style.update_link(None) if style and style.link else style
                yield Segment(safe_text(text), safe_style)


class _Marked:
    """`drawn` behind a mark, every row as far to the right."""

    def __init__(self, drawn: RenderableType, mark: str) -> None:
        self._drawn, self._mark = drawn, mark

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        margin = cell_len(self._mark)
        inner = options.update(width=max(options.max_width - margin, 1))
        lead = Segment(self._mark, console.get_style("mark"))
        for line in console.render_lines(self._drawn, inner, pad=False):
            yield lead
            yield from line
            yield Segment.line()
            lead = Segment(" " * margin)


def _console(*, stderr: bool, width: int | None, theme: Theme) -> Console:
    # What users and models write is never taken for rich's own markup.
    return Console(
        file=_Stream("stderr" if stderr else "stdout"),
        width=width,
        theme=RichTheme(dict(theme.styles)),
        markup=False,
        emoji=False,
        highlight=False,
    )


def _cell_pixels() -> tuple[int, int]:
    """Width and height of a character, as the terminal has told the system; many tell nothing."""
    try:
        size = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8))
        rows, columns, width, height = struct.unpack("HHHH", size)
        cell = width // columns, height // rows
    except (OSError, ValueError, ZeroDivisionError):
        return _USUAL_CELL
    return cell if all(4 <= side <= 100 for side in cell) else _USUAL_CELL


def _rendered(console: Console, renderable: RenderableType, **options: Any) -> str:
    with console.capture() as capture:
        console.print(_Safe(renderable), **options)
    return capture.get()


def _unpadded(console: Console, renderable: RenderableType) -> str:
    """Without the blanks that rich puts at the ends of lines."""
    lines = _rendered(console, renderable).splitlines()
    return "".join(_PADDING.sub("", line) + "\n" for line in lines)


def write_text(stream: TextIO, text: str | Drawing, *, over: bool = False) -> None:
    """Write at once; what the stream's encoding lacks becomes ASCII or `?`.

    A terminal gets colours, drawings and no other sequence; `over` begins at the start of its
    line, and removes the rest of what stood there. Where standard error cannot be written there is
    nobody to tell, and the answer goes on.

    Raises:
        ReaderGoneError: the stream has been closed.
        RqchatError: it leads to a disk that is full, or the like.
    """
    try:
        if isinstance(text, Drawing):
            text = f"{picture_sequence(text.protocol, text.picture)}\n"
        elif stream.isatty():
            text = only_colours(text)
        if over:
            text = f"\r{text}\x1b[K"
        try:
            stream.write(text)
        except UnicodeEncodeError:
            plain = text.translate(_PLAIN)
            stream.write(plain.encode(stream.encoding, "replace").decode(stream.encoding))
        stream.flush()
    except OSError as error:
        # The interpreter flushes the stream once more when it ends; let that succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is sys.stderr:
            return
        if isinstance(error, BrokenPipeError):
            raise ReaderGoneError from None
        raise RqchatError(f"the output cannot be written: {error.strerror or error}") from None
