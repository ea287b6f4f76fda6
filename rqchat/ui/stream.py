"""Shows the engine's events on the screen as they come."""

from __future__ import annotations

import time
from collections.abc import Callable

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
from rqchat.ui.markdown import MarkdownAnswer
from rqchat.ui.text import format_bytes, format_count, format_seconds

__all__ = ["STOP_NOTES", "AnswerView", "load_status", "prefill_status"]

_RECALLED_TOKENS = 1024  # fewer take no time that anybody would miss
_FOLDED_PIECES = 40  # of a folded thought are shown while it comes
STOP_NOTES = {
    "interrupted": "[interrupted: the answer is not complete]",
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen, self._recalls = screen, recalls
        self._echo, self._fold = echo, fold
        self._clock = clock
        self._pieces: list[str] = []
        self._thoughts: list[str] = []
        self._open_thought = False
        self._open_answer = False
        self._began_at_s: float | None = None
        self._deltas = 0
        self._markdown: MarkdownAnswer | None = None
        if markdown and echo and screen.can_style:
            self._markdown = MarkdownAnswer(screen, begun=begun, clock=clock)

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
                self._screen.status(prefill_status(event))
            case LoadProgress():
                self._screen.status(load_status(event))
            case Notice(text):
                self._screen.note(text)
            case Done(stop_reason):
                self.close()
                if stop_reason in STOP_NOTES:
                    self._screen.note(STOP_NOTES[stop_reason], style="warning")

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
        if self._recalls and event.cached_tokens >= _RECALLED_TOKENS:
            cached, total = format_count(event.cached_tokens), format_count(event.total_tokens)
            self._screen.note(f"{cached} of {total} tokens were read before")
        self._recalls = False

    def _count(self) -> None:
        self._deltas += 1
        if self._began_at_s is None:
            self._began_at_s = self._clock()

    def _show_text(self, text: str) -> None:
        if not text:
            return
        self._end_thought()
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
        self._screen.note(f"[thought for {took}; /think show unfolds it]", style="thought")


def prefill_status(event: PrefillProgress) -> str:
    """`reading 512 of 2,048 tokens, 25 %, 900 tokens/s, 1.7 s left`.

    The rate counts the tokens that needed work; cached ones came for free.
    """
    percent = 100 * event.done_tokens // max(event.total_tokens, 1)
    text = (
        f"reading {format_count(event.done_tokens)} of {format_count(event.total_tokens)} tokens, "
        f"{percent} %"
    )
    worked_tokens = event.done_tokens - event.cached_tokens
    if worked_tokens <= 0 or event.elapsed_s <= 0:
        return text
    tokens_per_s = worked_tokens / event.elapsed_s
    left_s = (event.total_tokens - event.done_tokens) / tokens_per_s
    return f"{text}, {format_count(round(tokens_per_s))} tokens/s, {format_seconds(left_s)} left"


def load_status(event: LoadProgress) -> str:
    """`loading: downloading, 43 % of 17.2 GiB, 110 MiB/s, 1 min 29 s left`.

    Without the share where the total is unknown, without the rest where the rate is.
    """
    if event.total_bytes <= 0:
        return f"loading: {event.stage}"
    percent = 100 * event.done_bytes // event.total_bytes
    text = f"loading: {event.stage}, {percent} % of {format_bytes(event.total_bytes)}"
    if event.bytes_per_s <= 0:
        return text
    left_s = (event.total_bytes - event.done_bytes) / event.bytes_per_s
    rate = format_bytes(round(event.bytes_per_s))
    return f"{text}, {rate}/s, {format_seconds(left_s)} left"
