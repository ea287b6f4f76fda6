"""What the store gives back: frozen records of sessions, turns and findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rqchat.engine.conversations.receipt import Receipt

__all__ = [
    "TURN_MARKS",
    "Attachment",
    "AttachmentKind",
    "Finding",
    "Origin",
    "SessionRecord",
    "TurnRecord",
    "TurnState",
    "short_title",
]

AttachmentKind = Literal["document", "picture"]
Origin = Literal["chat", "ask"]
TurnState = Literal["complete", "interrupted", "unfinished"]
TURN_MARKS: dict[TurnState, str] = {
    "interrupted": "[interrupted: the answer is not complete]",
    "unfinished": "[unfinished: rqchat ended before the answer did]",
}
_TITLE_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One saved conversation, without its turns.

    Attributes:
        id: eight letters and digits; its beginning is enough where it is unique.
        name: what the user calls it; unique, or None.
        title: the beginning of the first question.
        origin: `chat` or `ask`.
        model: which answered last.
        system: the instructions above the conversation.
        forked_from: id of the session that it was copied from.
        created_s, updated_s: seconds since 1970.
        turns: how many questions it has.
    """

    id: str
    name: str | None
    title: str
    origin: Origin
    model: str
    system: str | None
    forked_from: str | None
    created_s: float
    updated_s: float
    turns: int

    @property
    def label(self) -> str:
        """What people know it by."""
        return self.name or self.title


@dataclass(frozen=True, slots=True)
class Attachment:
    """A document or picture of a turn, kept by the SHA-256 of its content."""

    kind: AttachmentKind
    name: str
    hash: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One question and its answer.

    Attributes:
        id: never given twice in one store.
        number: counts from 1 within the session.
        state: `complete`; `interrupted` by the user; `unfinished` while the model answers, and for
            good where the process ended meanwhile.
    """

    id: int
    number: int
    asked_s: float
    question: str
    thought: str
    answer: str
    state: TurnState
    receipt: Receipt
    attachments: tuple[Attachment, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A session that a search found, with the newest place in it.

    Attributes:
        number: the turn, or None where the name was found.
        excerpt: what stands around the words.
    """

    session: SessionRecord
    number: int | None
    excerpt: str


def short_title(text: str) -> str:
    """The beginning of `text` on one line."""
    words = " ".join(text.split())
    return words if len(words) <= _TITLE_CHARACTERS else words[: _TITLE_CHARACTERS - 1] + "…"
