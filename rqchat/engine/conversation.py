"""Turns of a conversation as plain records. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture

__all__ = [
    "ContextKind",
    "ContextPart",
    "GivenMessage",
    "GivenRole",
    "Message",
    "Role",
    "ToolCall",
    "UserTurn",
]

Role = Literal["system", "user", "assistant"]
GivenRole = Literal["system", "user", "assistant", "tool"]
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
class ToolCall:
    """A call that the model makes of a tool.

    Attributes:
        name: of the tool.
        arguments: plain values, as JSON has them.
        call_id: by which the tool's result names it.
    """

    name: str
    arguments: Mapping[str, Any]
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class GivenMessage:
    """A message as other programs send them: texts and pictures in any order, calls of tools.

    Attributes:
        role: who wrote it; `tool` is the result of a call.
        parts: texts and pictures, in the order in which the model sees them.
        tool_calls: what an assistant called.
        tool_name, call_id: of a result: whose it is, and of which call.
    """

    role: GivenRole
    parts: tuple[str | Picture, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    call_id: str = ""

    @property
    def text(self) -> str:
        """All its texts."""
        return "".join(part for part in self.parts if isinstance(part, str))


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
