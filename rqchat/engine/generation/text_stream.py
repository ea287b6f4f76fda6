"""Tokens to text as they come, in whole characters, thoughts apart from the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from rqchat.engine.events import TextDelta, ThoughtDelta, ToolRequest
from rqchat.engine.foreign import border
from rqchat.engine.tool_calls import (
    CALL_END,
    CALL_START,
    QUOTE,
    QUOTE_TOKEN,
    read_call,
)
from rqchat.errors import ModelError

__all__ = ["CHANNEL_END", "CHANNEL_START", "Delta", "TextWriter", "ThoughtSplitter"]

CHANNEL_START = "<|channel>"
CHANNEL_END = "<channel|>"
_CHANNEL = "thought"
_KNOWN_TOKENS = 16  # so many show the decoder whether a blank stands before the next one


Delta = TextDelta | ThoughtDelta | ToolRequest


class ThoughtSplitter:
    """Turns pieces of text and control tokens into thought and answer pieces.

    A thought is written `<|channel>thought`, newline, text, `<channel|>`. The two marks are tokens
    of their own, so they come through `mark`; text that merely spells them stays text. The name
    of the channel is not shown. A finetune may leave out the newline, or the name; what follows is
    a thought all the same. The answer's leading blank space is dropped, as the chat template drops
    it.
    """

    def __init__(self, *, inside: bool = False) -> None:
        """`inside`: the prompt ends within a channel whose name was already written."""
        self._inside = inside
        self._in_name = False
        self._name = ""
        self._begun = False

    def begin_answer(self) -> None:
        """The answer has begun: its blanks count from here on."""
        self._begun = True

    def mark(self, token: str) -> list[TextDelta | ThoughtDelta]:
        """A control token came; what it shows to have been a thought, not a channel's name."""
        said = self.end() if token in (CHANNEL_START, CHANNEL_END) else []
        if token == CHANNEL_START:
            self._inside, self._in_name = True, True
        elif token == CHANNEL_END:
            self._inside = False
        return said

    def end(self) -> list[TextDelta | ThoughtDelta]:
        """Nothing more comes: what stood where the name of a channel should was the thought."""
        said = self._name
        self._in_name, self._name = False, ""
        return [] if said.rstrip() in ("", _CHANNEL) else [ThoughtDelta(said)]

    def text(self, piece: str) -> list[TextDelta | ThoughtDelta]:
        """What `piece` adds to thought or answer; an empty list when it adds nothing."""
        if self._in_name:
            piece = self._after_name(piece)
        if self._inside:
            return [ThoughtDelta(piece)] if piece else []
        if not self._begun:
            piece = piece.lstrip()
            self._begun = bool(piece)
        return [TextDelta(piece)] if piece else []

    def _after_name(self, piece: str) -> str:
        """What of `piece`, and of what was held back before it, comes after the channel's name."""
        held = self._name + piece
        rest = held.removeprefix(_CHANNEL)
        blank, newline, below = rest.partition("\n")
        if _CHANNEL.startswith(held) or (rest != held and not newline and not rest.strip()):
            self._name = held
            return ""
        self._in_name, self._name = False, ""
        if rest == held or rest[0].islower():  # no name, or a word that begins as it does
            return held.lstrip("\n")
        return below if newline and not blank.strip() else rest.lstrip()


class TextWriter:
    """Writes one answer.

    Attributes:
        answer: the text so far, without thoughts.
        takes_calls: whether the model was told of tools, so that it may call some.
    """

    def __init__(self, tokenizer: Any, control_tokens: Mapping[int, str]) -> None:
        self.takes_calls = False
        self._call: str | None = None
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

    def add(self, token: int) -> list[Delta]:
        """What `token` adds; control tokens add nothing of their own."""
        if token in self._controls:
            self._stream = DecodeStream(skip_special_tokens=False)
            return self._control(self._controls[token])
        with border(lambda cause: ModelError(f"its tokenizer cannot write token {token}: {cause}")):
            piece = self._stream.step(self._backend, token)
        if self._call is not None:
            self._call += piece or ""
            return []
        return self._written(self._splitter.text(piece) if piece else [])

    def end(self) -> list[Delta]:
        """What was held back, when no token comes any more."""
        held = self._unread_call() if self._call is not None else []
        return [*held, *self._splitter.end()]

    def _control(self, token: str) -> list[Delta]:
        if token == CALL_START and self.takes_calls:
            held = self._unread_call() if self._call is not None else []
            self._call = ""
            return held
        if self._call is None:
            return list[Delta](self._splitter.mark(token))
        if token == QUOTE_TOKEN:
            self._call += QUOTE
            return []
        if token != CALL_END:
            return [*self._unread_call(), *self._splitter.mark(token)]
        found = read_call(self._call)
        if found is None:
            return self._unread_call()
        self._call = None
        return [ToolRequest(*found)]

    def _unread_call(self) -> list[Delta]:
        """A call that cannot be read, or was cut short, as the text that it is."""
        text, self._call = (self._call or "").replace(QUOTE, '"'), None
        return self._written(self._splitter.text(text) if text else [])

    def _written(self, deltas: list[TextDelta | ThoughtDelta]) -> list[Delta]:
        self.answer += "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
        return list[Delta](deltas)
