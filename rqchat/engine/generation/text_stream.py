"""Tokens to text as they come, in whole characters, thoughts apart from the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from rqchat.engine.events import TextDelta, ThoughtDelta

__all__ = ["CHANNEL_END", "CHANNEL_START", "TextWriter", "ThoughtSplitter"]

CHANNEL_START = "<|channel>"
CHANNEL_END = "<channel|>"
_KNOWN_TOKENS = 16  # so many show the decoder whether a blank stands before the next one


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


class TextWriter:
    """Writes one answer.

    Attributes:
        answer: the text so far, without thoughts.
    """

    def __init__(self, tokenizer: Any, control_tokens: Mapping[int, str]) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._controls = control_tokens
        self._splitter = ThoughtSplitter()
        self._stream = DecodeStream(skip_special_tokens=False)
        self.answer = ""

    def begin_with(self, text: str, token_ids: Sequence[int]) -> None:
        """The answer begins with `text`, which is known already."""
        self.answer = text
        if text:
            self._splitter.begin_answer()
            for token in token_ids[-_KNOWN_TOKENS:]:
                self._stream.step(self._backend, token)

    def add(self, token: int) -> list[TextDelta | ThoughtDelta]:
        """What `token` adds; control tokens add nothing."""
        if token in self._controls:
            self._splitter.mark(self._controls[token])
            self._stream = DecodeStream(skip_special_tokens=False)
            return []
        piece = self._stream.step(self._backend, token)
        deltas = self._splitter.text(piece) if piece else []
        self.answer += "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
        return deltas
