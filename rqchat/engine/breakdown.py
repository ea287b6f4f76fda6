"""What a conversation consists of, in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rqchat.engine.conversation import ContextKind, ContextPart, Message, Role
from rqchat.engine.prompt import PromptWriter

__all__ = ["context_parts"]

_LABEL_CHARACTERS = 60
_KINDS: dict[Role, ContextKind] = {"system": "system", "user": "question", "assistant": "answer"}


def context_parts(
    writer: PromptWriter, messages: Sequence[Message], *, thinking: bool = False
) -> tuple[ContextPart, ...]:
    """The parts of `messages` in their order, and last the frame: what the template adds.

    Their sum is the prompt that an empty next question would make. A document's tokens are
    counted alone, so the lines around it, which name it, are counted with the frame.
    """
    parts = [part for message in messages for part in _parts_of(writer, message)]
    asked = (*messages, Message("user", ""))
    total = len(writer.write(asked, thinking=thinking).token_ids)
    frame = total - sum(part.tokens for part in parts)
    return (*parts, ContextPart("frame", "", frame))


def _parts_of(writer: PromptWriter, message: Message) -> Iterator[ContextPart]:
    for document in message.documents:
        yield ContextPart("document", document.name, len(writer.text_ids(document.text)))
    for picture in message.pictures:
        yield ContextPart("picture", picture.name, writer.soft_tokens(picture))
    if message.text:
        label = " ".join(message.text[: 2 * _LABEL_CHARACTERS].split())[:_LABEL_CHARACTERS]
        yield ContextPart(_KINDS[message.role], label, len(writer.text_ids(message.text)))
