"""Shows the engine's events on the screen as they come."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.cells import cell_len

from rqchat.engine.conversations.records import TURN_MARKS
from rqchat.engine.events import (
    Done,
    Event,
    LoadProgress,
    Notice,
    PrefillProgress,
    TextDelta,
    ThoughtDelta,
)
from rqchat.ui.console import Screen
from rqchat.ui.markdown import InChat, MarkdownAnswer
from rqchat.ui.progress import load_status, prefill_status
from rqchat.ui.text import format_count, format_seconds

__all__ = ["STOP_NOTES", "AnswerView", "answer_summary"]

_LONG_TOKENS = 1024  # to read fewer takes no time that anybody would miss
_FOLDED_PIECES = 40  # of a folded thought are shown while it comes
STOP_NOTES = {
    "interrupted": TURN_MARKS["interrupted"],
    "repetition": "[stopped: the answer fell into a loop; asked again, it may not]",
    "length": "[stopped at the token limit: the answer is not complete]",
}


class AnswerView:
    """Shows one answer's events and keeps its text.

    Args:
        screen: where to show.
        echo: write the answer to standard output while it comes; off for `--json`.
        markdown: draw its Markdown where standard output is a terminal that can show it.
        fold: of a thought show only its end while it comes, and one line when it is over.
        begun: how the answer began that goes on now.
        recalls: say once how much of a long prompt had been read before.
        summary: end with a line on tokens and speed.
        chat: its place in a chat; None for an answer by itself.
        clock: seconds, for rates and redraws.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        echo: bool = True,
        markdown: bool = True,
        fold: bool = False,
        begun: str = "",
        recalls: bool = False,
        summary: bool = False,
        chat: InChat | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen, self._recalls, self._summary = screen, recalls, summary
        self._echo, self._fold = echo, fold
        self._read: PrefillProgress | None = None
        self._first_word_s = 0.0
        self._clock = clock
        self._pieces: list[str] = []
        self._thoughts: list[str] = []
        self._open_thought = False
        self._open_answer = False
        self._began_at_s: float | None = None
        self._deltas = 0
        self._markdown: MarkdownAnswer | None = None
        if markdown and echo and screen.can_style:
            self._markdown = MarkdownAnswer(screen, begun=begun, chat=chat, clock=clock)

    @property
    def text(self) -> str:
        """The answer so far, exactly as the model gave it."""
        return "".join(self._pieces)

    @property
    def thoughts(self) -> str:
        """The thoughts so far."""
        return "".join(self._thoughts)

    @property
    def deltas_per_s(self) -> float:
        """Pieces of text a second since the first one came; a piece is a token, or nearly."""
        if self._began_at_s is None or self._deltas < 2:
            return 0.0
        return (self._deltas - 1) / max(self._clock() - self._began_at_s, 1e-9)

    def show(self, event: Event) -> None:
        """Show one event of any kind.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        match event:
            case TextDelta(text):
                self._count()
                self._show_text(text)
            case ThoughtDelta(text):
                self._count()
                self._show_thought(text)
            case PrefillProgress():
                self._recall(event)
                self._read = event
                self._screen.status(prefill_status(event, self._screen.err.width - 1))
            case LoadProgress():
                self._screen.status(load_status(event))
            case Notice(text):
                self._screen.note(text)
            case Done(stop_reason):
                self.close()
                if stop_reason in STOP_NOTES:
                    self._screen.note(STOP_NOTES[stop_reason], style="warning")
                if self._summary and event.tokens.output:
                    if self._markdown is not None:
                        self._screen.note("")
                    columns = self._screen.err.width
                    self._screen.note(answer_summary(event, self._first_word_s, columns))

    def close(self) -> None:
        """End the line that is open, so that what follows starts on its own."""
        self._end_thought()
        if self._open_answer and self._markdown is not None:
            self._markdown.close()
        elif self._open_answer:
            self._screen.answer("\n")
        self._open_answer = False
        self._screen.clear_status()

    def _recall(self, event: PrefillProgress) -> None:
        if self._recalls and event.cached_tokens >= _LONG_TOKENS:
            cached, total = format_count(event.cached_tokens), format_count(event.total_tokens)
            self._screen.note(f"{cached} of {total} tokens were read before")
        self._recalls = False

    def _count(self) -> None:
        self._deltas += 1
        if self._began_at_s is None:
            self._began_at_s = self._clock()
            self._end_reading()

    def _end_reading(self) -> None:
        """A long prompt is read: its progress becomes a line that stays."""
        read, self._read = self._read, None
        if read is None or not self._summary:
            return
        tokens = read.done_tokens - read.cached_tokens
        if tokens >= _LONG_TOKENS:
            rate = format_count(round(tokens / max(read.elapsed_s, 1e-9)))
            took = format_seconds(read.elapsed_s)
            self._screen.note(f"read {format_count(tokens)} tokens in {took} · {rate} tokens/s")
            self._screen.note("")

    def _show_text(self, text: str) -> None:
        if not text:
            return
        self._end_thought()
        if not self._pieces:
            self._first_word_s = self._clock() - (self._began_at_s or 0.0)
        self._pieces.append(text)
        if self._markdown is not None:
            self._markdown.feed(text)
            self._open_answer = True
        elif self._echo:
            self._screen.answer(text)
            self._open_answer = not text.endswith("\n")

    def _show_thought(self, text: str) -> None:
        self._thoughts.append(text)
        if self._fold:
            # A long thought would be joined anew for each piece, and only its end is seen
            self._screen.draft("".join(self._thoughts[-_FOLDED_PIECES:]), "thought")
            self._open_thought = True
        else:
            self._screen.thought(text)
            self._open_thought = not text.endswith("\n")

    def _end_thought(self) -> None:
        if not self._open_thought:
            return
        self._open_thought = False
        if not self._fold:
            self._screen.thought("\n\n")
            return
        self._screen.clear_status()
        took = format_seconds(self._clock() - (self._began_at_s or 0.0))
        tokens = format_count(len(self._thoughts))  # a piece is a token, or nearly
        self._screen.note(f"thought for {took}, about {tokens} tokens · /think show", "thought")
        self._screen.note("")


def answer_summary(done: Done, first_word_s: float, columns: int) -> str:
    """`212 tokens · 44 tokens/s · first word after 8.6 s`, or as much of it as `columns` hold.

    `first_word_s` is the time that went by with thoughts, after the prompt was read.
    """
    rate = done.timing.decode_tokens_per_s
    parts = [f"{format_count(done.tokens.output)} token{'s' if done.tokens.output != 1 else ''}"]
    if rate > 0:
        parts.append(f"{rate:,.0f} tokens/s" if rate >= 10 else f"{rate:.1f} tokens/s")
    first = f"first word after {format_seconds(done.timing.prefill_s + first_word_s)}"
    whole = " · ".join((*parts, first))
    return whole if cell_len(whole) <= columns else " · ".join(parts)
