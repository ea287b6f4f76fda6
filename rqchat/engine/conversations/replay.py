"""Answers made again with what their receipts say, and whether they came out the same.

A cache that read a prompt in one piece differs in the last bits from one that read it turn by turn,
so a turn is made again as it was made: from the last turn on that began with an empty cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import unified_diff

from rqchat.engine.conversation import Message
from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.rows import Kept
from rqchat.engine.events import Done
from rqchat.engine.settings import SamplingSettings

__all__ = [
    "Replayed",
    "changes",
    "earlier_messages",
    "is_cold",
    "replay_sampling",
    "turns_to_replay",
]

_COMPARED = (
    *("rqchat", "torch", "model", "revision", "device", "weights", "head_bits", "kv_bits"),
    *("sliding_bits", "kv_mode", "calibration", "context_tokens", "image_tokens", "page_tokens"),
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One answer made again.

    Attributes:
        number: of the turn, from 1.
        before, after: the saved answer and the new one.
        changed: what is not as it was, with both values: versions, weights, device, plan.
    """

    number: int
    before: str
    after: str
    done: Done
    changed: dict[str, tuple[object, object]]

    @property
    def is_same(self) -> bool:
        """Whether the new answer is the saved one, letter by letter."""
        return self.before == self.after

    @property
    def difference(self) -> str:
        """A unified diff; empty where there is none."""
        lines = unified_diff(
            self.before.splitlines(), self.after.splitlines(), "saved", "replayed", lineterm=""
        )
        return "\n".join(lines)


def turns_to_replay(turns: Sequence[Kept], number: int | None) -> list[int]:
    """Indices of the turns to make again so that turn `number`, or all, are made as they were.

    Questions without an answer are passed over.
    """
    answered = [index for index, kept in enumerate(turns) if kept.is_answered]
    if number is None:
        return answered
    wanted = [index for index in answered if index < number]
    first = max((index for index in wanted if is_cold(turns[index])), default=0)
    return [index for index in wanted if index >= first]


def is_cold(kept: Kept) -> bool:
    """Whether the answer began with an empty cache."""
    return kept.receipt.tokens is not None and kept.receipt.tokens.cached == 0


def earlier_messages(turns: Sequence[Kept], index: int) -> tuple[Message, ...]:
    """The conversation above turn `index`."""
    return tuple(m for kept in turns[:index] if kept.is_answered for m in kept.messages)


def replay_sampling(kept: Kept) -> SamplingSettings:
    """As the answer was drawn; one that was interrupted is stopped after as many tokens."""
    tokens = kept.receipt.tokens
    if kept.state == "complete" or tokens is None:
        return kept.receipt.sampling
    return replace(kept.receipt.sampling, max_tokens=max(1, tokens.output))


def changes(then: Receipt, now: Receipt) -> dict[str, tuple[object, object]]:
    """What decides an answer besides question and seed, where it is not as it was."""
    names = [field.name for field in fields(Receipt) if field.name in _COMPARED]
    pairs = {name: (getattr(then, name), getattr(now, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] not in (pair[1], None)}
