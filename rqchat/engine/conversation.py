"""Turns of a conversation as plain records. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rqchat.engine.documents import Document
from rqchat.engine.images import Picture

__all__ = ["Message", "Role", "UserTurn"]

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What the user sends at once. The model sees documents, then pictures, then `text`."""

    text: str
    pictures: tuple[Picture, ...] = ()
    documents: tuple[Document, ...] = ()


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
