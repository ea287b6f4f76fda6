"""One answer while it comes, and when it is time to write it."""

from __future__ import annotations

import time
from dataclasses import replace

from rqchat.engine.events import Done, Event, TextDelta, ThoughtDelta
from rqchat.engine.store.records import TurnState
from rqchat.engine.store.rows import Kept

__all__ = ["Growth"]

_GROWTH_S = 0.5
_GROWTH_SHARE = 0.05  # of the time at most goes into writing an answer that still grows


class Growth:
    """One answer while it comes, after what it `begun` with."""

    def __init__(self, begun: str) -> None:
        self._answer = [begun]
        self._thought: list[str] = []
        self._done: Done | None = None
        self._next_s = time.monotonic() + _GROWTH_S

    def add(self, event: Event) -> bool:
        """Takes an event; whether it is time to write."""
        match event:
            case TextDelta(text):
                self._answer.append(text)
            case ThoughtDelta(text):
                self._thought.append(text)
            case Done():
                self._done = event
            case _:
                return False
        return self._done is None and time.monotonic() >= self._next_s

    def written(self, cost_s: float) -> None:
        """Writing took `cost_s`; the next time is due when that is a small share of the time."""
        self._next_s = time.monotonic() + max(_GROWTH_S, cost_s / _GROWTH_SHARE)

    def onto(self, kept: Kept) -> Kept:
        """`kept` with what came so far, as the session itself keeps it."""
        answer, thought = "".join(self._answer).rstrip(), "".join(self._thought).strip()
        return replace(kept, answer=answer, thought=thought)

    def end(self, kept: Kept) -> Kept:
        """`kept` with the answer at its end, whole or interrupted."""
        stopped = self._done is None or self._done.stop_reason == "interrupted"
        state: TurnState = "interrupted" if stopped else "complete"
        receipt = kept.receipt.end(self._done) if self._done else kept.receipt
        return replace(self.onto(kept), state=state, receipt=receipt)
