"""Splits the thought channel from the answer while the text streams in. No torch."""

from __future__ import annotations

from rqchat.engine.events import TextDelta, ThoughtDelta

__all__ = ["CHANNEL_END", "CHANNEL_START", "ThoughtSplitter"]

CHANNEL_START = "<|channel>"
CHANNEL_END = "<channel|>"


class ThoughtSplitter:
    """Turns pieces of text and control tokens into thought and answer pieces.

    A thought is written `<|channel>thought`, newline, text, `<channel|>`. The two marks are tokens
    of their own, so they come through `mark`; text that merely spells them stays text. The name
    of the channel, up to the first newline, is not shown. The answer's leading blank space is
    dropped, as the chat template drops it.
    """

    def __init__(self, *, inside: bool = False) -> None:
        """`inside`: the prompt ends within a channel whose name was already written."""
        self._inside = inside
        self._in_name = False
        self._begun = False

    def begin_answer(self) -> None:
        """The answer has begun: its blanks count from here on."""
        self._begun = True

    def mark(self, token: str) -> None:
        """A control token came."""
        if token == CHANNEL_START:
            self._inside, self._in_name = True, True
        elif token == CHANNEL_END:
            self._inside, self._in_name = False, False

    def text(self, piece: str) -> list[TextDelta | ThoughtDelta]:
        """What `piece` adds to thought or answer; an empty list when it adds nothing."""
        if self._in_name:
            _, newline, piece = piece.partition("\n")
            self._in_name = not newline
        if self._inside:
            return [ThoughtDelta(piece)] if piece else []
        if not self._begun:
            piece = piece.lstrip()
            self._begun = bool(piece)
        return [TextDelta(piece)] if piece else []
