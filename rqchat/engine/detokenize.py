"""Tokens to text as they come, in whole characters, thoughts apart from the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from rqchat.engine.events import TextDelta, ThoughtDelta
from rqchat.engine.thoughts import ThoughtSplitter

__all__ = ["TextWriter"]


_KNOWN_TOKENS = 16  # so many tell the decoder whether a blank stands before the next one


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
