"""What a request asks for, whatever protocol it came in, and how its fields are read."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rqchat.engine.conversation import GivenMessage, GivenRole, ToolCall
from rqchat.engine.inputs.pictures import MAX_PICTURE_BYTES, Picture, decode_picture
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import UsageError

__all__ = [
    "MOST_PICTURES",
    "AnswerRequest",
    "EncodedPicture",
    "ReceivedMessage",
    "base64_picture",
    "call_arguments",
    "data_url_picture",
    "decoded",
    "field",
    "sampling_of",
    "stop_texts",
    "without_late_systems",
]

MOST_PICTURES = 32
"""Of one request; each may take 30 MB once it is decoded."""
_MOST_STOPS = 16
_MOST_STOP_CHARACTERS = 1000
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(;[\w=.+-]+)*;base64,", re.IGNORECASE)
_SAMPLED = ("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture as it came; decoding it takes memory, so that waits until the answer's turn."""

    name: str
    data: bytes

    def decode(self) -> Picture:
        """The picture.

        Raises:
            InputError: too large, damaged, or none.
        """
        return decode_picture(self.data, self.name)


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """As `GivenMessage`, with pictures as they came."""

    role: GivenRole
    parts: tuple[str | EncodedPicture, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One answer that is asked for.

    Attributes:
        messages: the whole conversation, system messages first.
        sampling: how the answer is drawn.
        thinking: whether the model thinks first.
        stops: texts before which the answer ends.
        schema: a JSON schema that the answer matches.
        begun: how the answer begins, where the conversation ends with a piece of one.
        tools: what the model may call, as `{"type": "function", "function": {...}}`.
        forced_tools: those of which one has to be called; none where the model may choose.
    """

    messages: tuple[ReceivedMessage, ...]
    sampling: SamplingSettings
    thinking: bool = False
    stops: tuple[str, ...] = ()
    schema: str | None = None
    begun: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    forced_tools: tuple[Mapping[str, Any], ...] = ()

    def with_last_answer_begun(self) -> AnswerRequest:
        """The same, where a last message of the assistant is what the answer begins with."""
        last = self.messages[-1]
        texts = [part for part in last.parts if isinstance(part, str)]
        if last.role != "assistant" or last.tool_calls or len(texts) != len(last.parts):
            return self
        return replace(self, messages=self.messages[:-1], begun="".join(texts).rstrip())


def decoded(messages: Sequence[ReceivedMessage]) -> tuple[GivenMessage, ...]:
    """The messages with their pictures.

    Raises:
        InputError: a picture cannot be used.
    """
    return tuple(
        GivenMessage(
            message.role,
            tuple(part if isinstance(part, str) else part.decode() for part in message.parts),
            message.tool_calls,
            message.tool_name,
            message.call_id,
        )
        for message in messages
    )


def without_late_systems(messages: Sequence[ReceivedMessage]) -> tuple[ReceivedMessage, ...]:
    """The messages, with the system messages that stand first as one.

    Templates know one system message, at the beginning; several programs send two.

    Raises:
        UsageError: there is none, or none but the system's.
    """
    for before, message in zip((None, *messages), messages, strict=False):
        follows = before is not None and (before.tool_calls or before.role == "tool")
        if message.role == "tool" and not follows:
            raise UsageError("a result of a tool has to follow the message that called the tool")
    if messages and messages[-1].tool_calls:
        raise UsageError("the last message calls tools, whose results have to follow")
    messages = _with_tool_names(messages)
    first = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    if first == len(messages):
        raise UsageError("messages holds no question; add one with role 'user'")
    if first < 2:
        return tuple(messages)
    texts = [part for m in messages[:first] for part in m.parts if isinstance(part, str)]
    return (ReceivedMessage("system", ("\n\n".join(texts),)), *messages[first:])


def field(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    """Field `name` of a body, or the default where it is missing or null.

    Raises:
        UsageError: it is of another type.
    """
    value = body.get(name)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # In JSON true is no number
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(_JSON_NAMES[each] for each in kinds)
        raise UsageError(f"{name} is {value!r:.80}; it has to be {wanted}")
    return value


_JSON_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
}


def call_arguments(given: Any, name: str) -> dict[str, Any]:
    """The arguments of a call of tool `name`, which stand there as JSON or in a string of it.

    Raises:
        UsageError: they are no object.
    """
    try:
        arguments = json.loads(given or "{}") if isinstance(given, str | None) else given
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise UsageError(f"the arguments of {name} are {given!r:.80}; they have to be an object")
    return arguments


def sampling_of(body: Mapping[str, Any], most_tokens: int | None) -> SamplingSettings:
    """How the answer is drawn; what the request leaves out is the model's own.

    Raises:
        UsageError: a value is out of range.
    """
    given = {name: body[name] for name in _SAMPLED if body.get(name) is not None}
    for name in given:
        whole = name in ("top_k", "seed")
        field(body, name, int if whole else (int, float), None)
    if "top_k" in given:
        given["top_k"] = max(0, given["top_k"])  # -1 is off in vLLM
    if "seed" in given:
        given["seed"] = None if given["seed"] < 0 else given["seed"]
    return SamplingSettings(**given, max_tokens=most_tokens)


def stop_texts(value: Any, name: str) -> tuple[str, ...]:
    """Texts before which an answer ends: one, several or none.

    Raises:
        UsageError: something else.
    """
    given = [value] if isinstance(value, str) else value or []
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise UsageError(f"{name} is {value!r:.80}; it has to be a string, or an array of strings")
    if len(given) > _MOST_STOPS or any(len(text) > _MOST_STOP_CHARACTERS for text in given):
        raise UsageError(
            f"{name} may hold {_MOST_STOPS} texts of {_MOST_STOP_CHARACTERS} characters each"
        )
    return tuple(text for text in given if text)


def data_url_picture(url: Any, number: int) -> EncodedPicture:
    """The picture in a data URL, the `number`-th of its request.

    Raises:
        UsageError: it is another kind of URL, or damaged.
    """
    head = _DATA_URL.match(url) if isinstance(url, str) else None
    if head is None:
        raise UsageError(
            f"picture {number} is {url!r:.60}; this server fetches nothing, so send the picture"
            " itself, as a URL such as data:image/png;base64,..."
        )
    return base64_picture(url[head.end() :], number)


def _with_tool_names(messages: Sequence[ReceivedMessage]) -> tuple[ReceivedMessage, ...]:
    """The messages, in which every result has the name of the tool that its call names."""
    names = {call.call_id: call.name for message in messages for call in message.tool_calls}
    return tuple(
        replace(m, tool_name=names.get(m.call_id, m.tool_name) or "unknown")
        if m.role == "tool"
        else m
        for m in messages
    )


def base64_picture(text: Any, number: int) -> EncodedPicture:
    """The picture in base64, the `number`-th of its request.

    Raises:
        UsageError: it is too large or no base64, or there are too many.
    """
    if number > MOST_PICTURES:
        raise UsageError(f"at most {MOST_PICTURES} pictures are taken with one request")
    if not isinstance(text, str) or len(text) > MAX_PICTURE_BYTES * 4 // 3:
        raise UsageError(f"picture {number} is no base64, or has more than {MAX_PICTURE_BYTES} B")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"picture {number} is no base64: {error}") from None
    return EncodedPicture(f"picture {number}", data)
