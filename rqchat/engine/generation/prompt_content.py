"""What people wrote and showed, as the chat template gets it: stand-ins, each for one text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rqchat.engine.conversation import GivenMessage, Message
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture, is_page_name
from rqchat.errors import InputError

__all__ = ["GAP", "SLOT", "Content", "document_text", "stand_in"]

SLOT = "\ue000(\\d+)\ue001"  # a pattern: where the text with that number belongs
GAP = "\n\n"
"""After a document."""
# What a control token or a stand-in is spelled with
_UNSAFE = re.compile(r"<\||\|>|[\ue000-\ue002]|<(?:bos|eos|pad|unk)>")


def stand_in(index: int) -> str:
    """What `SLOT` finds."""
    return f"\ue000{index}\ue001"


class Content:
    """The content of a conversation, in the order in which the template has to write it.

    Attributes:
        texts: every text; a document is one of its own, so that its tokens do not depend on the
            question that follows.
        documents: which of the texts are documents.
        loose: which of the texts a template may put elsewhere: those of tools, and what stands
            beside a call.
        pictures: every picture.
        names: of all documents and pictures.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.documents: set[int] = set()
        self.loose: set[int] = set()
        self.pictures: list[Picture] = []
        self.names: list[str] = []

    def record(self, message: Message | GivenMessage) -> dict[str, Any]:
        """A message for the template, with stand-ins for its texts."""
        if isinstance(message, GivenMessage):
            return self._given(message)
        self.names += [document.name for document in message.documents]
        self.names += [picture.name for picture in message.pictures]
        opening = self._opening(message.documents)
        # As the template does with a text; it sees only what stands in for this one.
        question = message.text.strip()
        if not message.pictures:
            if opening and question:
                question = GAP + question
            return {"role": message.role, "content": opening + self._add(question)}
        parts: list[dict[str, str]] = []
        if opening:
            parts.append({"type": "text", "text": opening + self._add(GAP)})
        for picture in message.pictures:
            if is_page_name(picture.name):
                parts.append({"type": "text", "text": self._add(f"\n{picture.name}:\n")})
            parts.append({"type": "image"})
        self.pictures.extend(message.pictures)
        parts.append({"type": "text", "text": self._add(question)})
        return {"role": message.role, "content": parts}

    def tools(self, tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Declarations for the template, with stand-ins for texts that spell control tokens.

        Raises:
            InputError: a name spells one.
        """
        return [self._plain(tool, every=False) for tool in tools]

    def _given(self, message: GivenMessage) -> dict[str, Any]:
        """As `record`; a message of one text, with pictures or without, is as `Message` has it."""
        before = len(self.texts)
        record: dict[str, Any] = {"role": message.role}
        if message.tool_calls:
            record["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {
                        "name": _safe(call.name),
                        "arguments": self._plain(call.arguments, every=True),
                    },
                }
                for call in message.tool_calls
            ]
        if message.role == "tool":
            record |= {"name": _safe(message.tool_name), "tool_call_id": message.call_id}
        record["content"] = self._parts(message)
        if message.role == "tool" or message.tool_calls:
            self.loose.update(range(before, len(self.texts)))
        return record

    def _parts(self, message: GivenMessage) -> str | list[dict[str, str]]:
        if all(isinstance(part, str) for part in message.parts):
            text = message.text if message.role == "tool" else message.text.strip()
            # A template may ask whether there is any
            return self._add(text) if text or not message.tool_calls else ""
        parts: list[dict[str, str]] = []
        for part in message.parts:
            if isinstance(part, str):
                parts.append({"type": "text", "text": self._add(part.strip())})
            else:
                self.pictures.append(part)
                self.names.append(part.name)
                parts.append({"type": "image"})
        return parts

    def _plain(self, value: Any, *, every: bool) -> Any:
        """`value` with stand-ins for `every` text, or for those that spell control tokens."""
        if isinstance(value, str):
            if not every and not _UNSAFE.search(value):
                return value
            self.loose.add(len(self.texts))
            return self._add(value)
        if isinstance(value, Mapping):
            return {_safe(key): self._plain(each, every=every) for key, each in value.items()}
        if isinstance(value, list):
            return [self._plain(each, every=every) for each in value]
        return value

    def _opening(self, documents: Sequence[Document]) -> str:
        written = ""
        for number, document in enumerate(documents):
            self.documents.add(len(self.texts))
            # The gap belongs to what follows: a document has the same tokens whatever comes next.
            written += self._add((GAP if number else "") + document_text(document))
        return written

    def _add(self, text: str) -> str:
        self.texts.append(text)
        return stand_in(len(self.texts) - 1)


def document_text(document: Document) -> str:
    """What the model reads of a document."""
    name = document.name.replace('"', "'")
    text = document.text.strip("\n")
    return f'<document name="{name}">\n{text}\n</document>'


def _safe(name: str) -> str:
    """A name that stands in a prompt as it is.

    Raises:
        InputError: it spells what structures a conversation.
    """
    if _UNSAFE.search(name):
        raise InputError(f"a tool or a field of one is called {name!r:.80}; take another name")
    return name
