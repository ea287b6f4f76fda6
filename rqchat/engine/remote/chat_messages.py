"""A conversation as OpenAI's chat completions have it, and as Anthropic's count of tokens does.

Documents stand before pictures, pictures before the question, in the words of our own prompts.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

from rqchat.engine.conversation import Message
from rqchat.engine.generation.prompt_content import GAP, document_text
from rqchat.engine.inputs.pictures import Picture, is_page_name

__all__ = ["ChatMessages"]

_QUALITY = 95
# Drawn and not photographed: what JPEG smears
_LOSSLESS = (b"\x89PNG", b"GIF8", b"BM")


class ChatMessages:
    """Writes messages; each picture is encoded once."""

    def __init__(self) -> None:
        self._encoded: dict[Picture, tuple[str, str]] = {}

    def openai(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """For `/v1/chat/completions`."""
        return [{"role": each.role, "content": self._openai_content(each)} for each in messages]

    def anthropic(self, messages: Sequence[Message]) -> dict[str, Any]:
        """For `/v1/messages/count_tokens`, where the system message stands apart."""
        system = [message.text for message in messages if message.role == "system"]
        rest = [
            {"role": each.role, "content": self._anthropic_content(each)}
            for each in messages
            if each.role != "system"
        ]
        return {"messages": rest} | ({"system": system[0]} if system else {})

    def _openai_content(self, message: Message) -> str | list[dict[str, Any]]:
        parts = list(_parts(message))
        if not message.pictures:
            return "".join(part for part in parts if isinstance(part, str))
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": self._data_url(part)}}
            for part in parts
        ]

    def _anthropic_content(self, message: Message) -> str | list[dict[str, Any]]:
        parts = list(_parts(message))
        if not message.pictures:
            return "".join(part for part in parts if isinstance(part, str))
        return [
            {"type": "text", "text": part} if isinstance(part, str) else self._source(part)
            for part in parts
        ]

    def _data_url(self, picture: Picture) -> str:
        media_type, data = self._encode(picture)
        return f"data:{media_type};base64,{data}"

    def _source(self, picture: Picture) -> dict[str, Any]:
        media_type, data = self._encode(picture)
        return {
            "type": "image",
            "source": {"type": "base64", "media_type": media_type, "data": data},
        }

    def _encode(self, picture: Picture) -> tuple[str, str]:
        """Media type and base64 of the pixels: a file would bring the place where it was taken,
        a rotation that some servers overlook, or a format that they do not know."""
        if picture not in self._encoded:
            is_lossless = picture.data.startswith(_LOSSLESS) or not picture.data
            kind = "PNG" if is_lossless else "JPEG"
            file = io.BytesIO()
            picture.image.save(file, kind, **({} if is_lossless else {"quality": _QUALITY}))
            text = base64.b64encode(file.getvalue()).decode()
            self._encoded[picture] = f"image/{kind.lower()}", text
        return self._encoded[picture]


def _parts(message: Message) -> Iterator[str | Picture]:
    """Texts and pictures in the order of our own prompts; a text may be empty only as the last."""
    opening = GAP.join(document_text(document) for document in message.documents)
    question = message.text.strip()
    if message.pictures and opening:
        yield opening + GAP
    elif opening:
        yield opening + GAP if question else opening
    for picture in message.pictures:
        if is_page_name(picture.name):
            yield f"\n{picture.name}:\n"
        yield picture
    if question or not (opening or message.pictures):
        yield question
