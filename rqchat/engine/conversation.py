"""Turns of a conversation as plain records. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture

__all__ = ["ContextKind", "ContextPart", "Message", "Role", "UserTurn"]

Role = Literal["system", "user", "assistant"]
ContextKind = Literal["system", "document", "picture", "question", "answer", "frame", "attached"]


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What the user sends at once. The model sees documents, then pictures, then `text`."""

    text: str
    pictures: tuple[Picture, ...] = ()
    documents: tuple[Document, ...] = ()

    @property
    def message(self) -> Message:
        """The same as a message of the conversation."""
        return Message("user", self.text, self.pictures, self.documents)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation.

    Attributes:
        role: who wrote it.
        text: without thoughts; the question alone where it is the user's.
        pictures, documents: what came with it.
        interrupted: an answer that was stopped before its end.
    """

    role: Role
    text: str
    pictures: tuple[Picture, ...] = ()
    documents: tuple[Document, ...] = ()
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class ContextPart:
    """A part of what the context holds.

    Attributes:
        kind: what it is; `frame` is what the model's template writes around the others.
        label: its name or how it begins; empty for the frame.
        tokens: how many it takes.
    """

    kind: ContextKind
    label: str
    tokens: int
