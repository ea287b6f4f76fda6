"""The chunks of a chat completion as events, and what they say of its end. No torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rqchat.engine.events import (
    Done,
    Event,
    MemoryUse,
    PrefillProgress,
    StopReason,
    TextDelta,
    ThoughtDelta,
    Timing,
    TokenCounts,
)
from rqchat.errors import RqchatError

__all__ = ["AnswerStream"]

# llama.cpp and SGLang; vLLM
_THOUGHTS = ("reasoning_content", "reasoning")
_REASONS: dict[str, StopReason] = {"stop": "eos", "length": "length", "eos": "eos"}
_MOST_BLANKS = 200  # in a row, of an answer that is JSON


class AnswerStream:
    """Reads one answer.

    Attributes:
        text: the answer so far, without thoughts.
        prompt_tokens: what the server says that it read; 0 where it does not say.
    """

    def __init__(self, input_tokens: int, load_s: float, *, is_json: bool) -> None:
        """`input_tokens` is what was counted before."""
        self.text = ""
        self.prompt_tokens = 0
        self._input_tokens, self._load_s, self._is_json = input_tokens, load_s, is_json
        self._finish: str | None = None
        self._cached_tokens = self._output_tokens = self._pieces = 0
        self._progress: tuple[int, int] | None = None
        self._began_s = time.monotonic()
        self._first_s = self._last_s = 0.0

    def events(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """What a chunk holds.

        Raises:
            RqchatError: the server refuses to go on.
        """
        self._note_usage(chunk.get("usage"))
        if progress := self._reading(chunk.get("prompt_progress")):
            yield progress
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, Mapping):
            return
        delta = choice.get("delta")
        delta = delta if isinstance(delta, Mapping) else {}
        thought = next((text for name in _THOUGHTS if (text := _text(delta, name))), "")
        text = _text(delta, "content")
        if (thought or text) and not self._first_s:
            self._first_s = time.monotonic()
            if self._progress is None:
                yield PrefillProgress(
                    self._input_tokens, self._input_tokens, 0, self._first_s - self._began_s
                )
        if thought:
            self._pieces += 1
            yield ThoughtDelta(thought)
        if text:
            self._pieces += 1
            self.text += text
            yield TextDelta(text)
        self._last_s = time.monotonic()
        if (finish := choice.get("finish_reason")) is not None:
            self._finish = str(finish)

    @property
    def is_blank_loop(self) -> bool:
        """Whether JSON goes on with nothing but blanks, which servers let it do to the limit."""
        tail = self.text[-_MOST_BLANKS:]
        return self._is_json and len(tail) == _MOST_BLANKS and tail.isspace()

    def stop_reason(self) -> StopReason:
        """Why the answer ended, at its end.

        Raises:
            RqchatError: it did not end, or not as answers do.
        """
        if self._finish is None:
            raise RqchatError(
                "the server's stream stopped without an end, so what came of the answer is not"
                " whole; ask again, or look into the server's log"
            )
        if self._finish == "tool_calls" and self.text:
            return "eos"  # vLLM says so also where no tool was called
        if self._finish not in _REASONS:
            raise RqchatError(
                f"the server ended the answer with {self._finish!r} in place of a stop, so it is"
                " not whole; ask in other words"
            )
        return _REASONS[self._finish]

    def done(self, reason: StopReason, seed: int) -> Done:
        """The record of the answer, measured from here."""
        first_s = self._first_s or time.monotonic()
        prefill_s, decode_s = first_s - self._began_s, max(self._last_s - first_s, 0.0)
        tokens = TokenCounts(
            input=self.prompt_tokens or self._input_tokens,
            image=0,  # nobody says
            cached=self._cached_tokens,
            output=self._output_tokens or self._pieces,
        )
        read = max(tokens.input - tokens.cached, 0)
        timing = Timing(
            load_s=self._load_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            prefill_tokens_per_s=read / prefill_s if prefill_s > 0 else 0.0,
            decode_tokens_per_s=tokens.output / decode_s if decode_s > 0 else 0.0,
        )
        return Done(reason, seed, tokens, timing, MemoryUse(0, 0))

    def _note_usage(self, usage: Any) -> None:
        if not isinstance(usage, Mapping):
            return
        self.prompt_tokens = _count(usage, "prompt_tokens") or self.prompt_tokens
        self._output_tokens = _count(usage, "completion_tokens") or self._output_tokens
        details = usage.get("prompt_tokens_details")
        if isinstance(details, Mapping):
            self._cached_tokens = _count(details, "cached_tokens")

    def _reading(self, progress: Any) -> PrefillProgress | None:
        """llama.cpp's `return_progress`; what was cached counts as done there, too."""
        if not isinstance(progress, Mapping) or self._first_s:
            return None
        total, cached = _count(progress, "total"), _count(progress, "cache")
        done = max(_count(progress, "processed"), cached)
        if not total or (done, cached) == self._progress:
            return None
        self._progress = done, cached
        return PrefillProgress(done, total, cached, _count(progress, "time_ms") / 1000)


def _text(delta: Mapping[str, Any], name: str) -> str:
    found = delta.get(name)
    return found if isinstance(found, str) else ""


def _count(record: Mapping[str, Any], name: str) -> int:
    found = record.get(name)
    return found if type(found) is int and found > 0 else 0
