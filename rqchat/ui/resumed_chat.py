"""Shows where a saved conversation ended, drawn as it was when it came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import chop_cells, set_cell_size
from rich.text import Text

from rqchat.engine.conversations.records import SessionRecord
from rqchat.engine.events import TextDelta
from rqchat.ui.console import Drawing, Screen, Stream
from rqchat.ui.markdown import InChat
from rqchat.ui.stream import STOP_NOTES, AnswerView
from rqchat.ui.text import format_count, safe_text

if TYPE_CHECKING:  # it loads pillow, which the prompt does not wait for
    from rqchat.engine.conversation import Message

__all__ = ["show_resumed"]

_QUESTION_ROWS = 5
_LINES_A_ROW = 4  # of Markdown; some of them, such as fences, are not drawn
_ROWS_BESIDE = 6  # of a screen: what is said above and below, the prompt and the status line


class _Capture:
    """Takes what a screen writes above a prompt."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, stream: Stream, text: str | Drawing) -> None:
        self.text += str(text)

    def draw(self, text: str, style: str, mark: str = "") -> None:
        """What may still change is not kept."""


def show_resumed(
    screen: Screen, session: SessionRecord, last: Sequence[Message], code_blocks: int = 0
) -> None:
    """Which conversation goes on, its last question and its last answer.

    Of a long question the beginning is shown, of a long answer the last screenful, and a line says
    what is left out.

    Args:
        screen: where to show.
        session: the conversation.
        last: its last question and answer, or nothing.
        code_blocks: how many blocks of code the answers before had.
    """
    turns = f"{format_count(session.turns)} turn{'s' if session.turns != 1 else ''}"
    screen.note(f"going on with {session.label} ({session.id}, {turns})", "name")
    if not last:
        return
    asked, answer = last
    columns, rows = screen.err.size
    question = f"> {safe_text(asked.text)}".splitlines()
    shown = _fitting(question, columns, _QUESTION_ROWS)
    screen.note("")
    for line in question[:shown]:
        # The band that it was typed in, broken where the line editor breaks it
        for row in chop_cells(line, columns) or [""]:
            screen.aside(Text(set_cell_size(row, columns), style="turn"))
    if shown < len(question):
        screen.note(f"[and {format_count(len(question) - shown)} more lines]")
    screen.note("")
    drawn, is_whole = _drawn(screen, answer.text, rows, InChat(code_blocks))
    shown = _fitting(drawn[::-1], columns, rows - _ROWS_BESIDE)
    if not (is_whole and shown == len(drawn)):
        screen.note(f"[the end of a long answer; rqchat sessions show {session.id} has all of it]")
    screen.redraw(drawn[len(drawn) - shown :])
    if answer.interrupted:
        screen.note(STOP_NOTES["interrupted"], "warning")
    screen.note("")


def _drawn(screen: Screen, text: str, rows: int, chat: InChat) -> tuple[list[str], bool]:
    """The lines of an answer as `screen` shows one that comes, colours included; and whether these
    are all, or only more than so many rows of its end, which take no time."""
    capture, aside = _Capture(), Screen(width=screen.out.width, theme=screen.theme)
    aside.live = capture
    lines = text.splitlines(keepends=True)
    # A whole book takes seconds to draw, and only the last screenful of it is shown
    cut = max(len(lines) - _LINES_A_ROW * rows, 0)
    view = AnswerView(aside, begun="".join(lines[:cut]), chat=chat)
    view.show(TextDelta("".join(lines[cut:])))
    view.close()
    return capture.text.splitlines(), not cut


def _fitting(lines: Sequence[str], columns: int, rows: int) -> int:
    """How many of `lines` a terminal shows in so many rows; at least one."""
    for count, line in enumerate(lines):
        rows -= max(1, -(-Text.from_ansi(line).cell_len // columns))
        if rows < 0:
            return max(count, 1)
    return len(lines)
