"""Anthropic's Messages: what a request says, and how an answer is written."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from rqchat.engine.conversation import ToolCall
from rqchat.engine.events import Event, PrefillProgress, TextDelta, ThoughtDelta
from rqchat.engine.serving.answering import Ending
from rqchat.engine.serving.given_request import (
    AnswerRequest,
    EncodedPicture,
    ReceivedMessage,
    base64_picture,
    call_arguments,
    data_url_picture,
    field,
    sampling_of,
    stop_texts,
    without_late_systems,
)
from rqchat.engine.serving.received_answer import ReceivedAnswer, server_sent
from rqchat.engine.serving.tool_use import forced_tool, named_tools
from rqchat.errors import UsageError

__all__ = ["MessagesReply", "read_messages_request"]

_STOP_REASONS = {
    "stop": "end_turn",
    "stop_text": "stop_sequence",
    "tool_calls": "tool_use",
}


def read_messages_request(body: Mapping[str, Any], *, thinks: bool) -> AnswerRequest:
    """The answer that `body` asks for; fields that are not known are ignored.

    Raises:
        UsageError: a field is of the wrong kind, or there is nothing to answer.
    """
    reader = _BlockReader()
    messages = list(_system(body.get("system")))
    for given in field(body, "messages", list, []):
        messages += reader.messages(given)
    thinking = field(body, "thinking", dict, {}).get("type")
    tools = named_tools(
        [_as_function(tool) for tool in field(body, "tools", list, []) if "input_schema" in tool]
    )
    choice = field(body, "tool_choice", dict, {})
    kind = choice.get("type")
    request = AnswerRequest(
        without_late_systems(messages),
        sampling_of(body, field(body, "max_tokens", int, None)),
        thinking=thinks if thinking is None else thinking != "disabled",
        stops=stop_texts(body.get("stop_sequences"), "stop_sequences"),
        tools=() if kind == "none" else tools,
        forced_tools=forced_tool(tools, choice.get("name") if kind == "tool" else None)
        if kind in ("any", "tool")
        else (),
    )
    return request.with_last_answer_begun()


def _system(given: Any) -> Iterator[ReceivedMessage]:
    if given is None or given == "":
        return
    blocks = [{"type": "text", "text": given}] if isinstance(given, str) else given
    if not isinstance(blocks, list):
        raise UsageError(f"system is {given!r:.80}; it has to be a string or an array of texts")
    found = [block.get("text") for block in blocks if isinstance(block, dict)]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) != len(blocks):
        raise UsageError("system has to be a string or an array of blocks of type text")
    yield ReceivedMessage("system", ("\n\n".join(texts),))


def _as_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {
        "name": tool.get("name"),
        "description": tool.get("description") or "",
        "parameters": tool.get("input_schema"),
    }
    return {"type": "function", "function": function}


class _BlockReader:
    """Reads the messages of one request; a result of a tool is a message of its own here."""

    def __init__(self) -> None:
        self._pictures = 0
        self._names: dict[str, str] = {}

    def messages(self, given: Any) -> Iterator[ReceivedMessage]:
        role = given.get("role") if isinstance(given, dict) else None
        if role not in ("user", "assistant", "system"):
            raise UsageError(
                f"a message is {given!r:.80}; it has to be an object whose role is user or"
                " assistant"
            )
        content = given.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
            raise UsageError(f"a content is {content!r:.80}; it has to be a string or blocks")
        for block in blocks:
            if block.get("type") == "tool_result":
                yield self._result(block)
        parts = tuple(part for block in blocks for part in self._parts(block))
        calls = tuple(self._call(block) for block in blocks if block.get("type") == "tool_use")
        if parts or calls:
            yield ReceivedMessage(role, parts, calls)

    def _parts(self, block: Mapping[str, Any]) -> Iterator[str | EncodedPicture]:
        kind = block.get("type")
        if kind == "text" and isinstance(block.get("text"), str):
            yield block["text"]
        elif kind == "image":
            yield self._picture(field(block, "source", dict, {}))
        # Thoughts of the past are no part of a prompt
        elif kind not in ("tool_use", "tool_result", "thinking", "redacted_thinking"):
            raise UsageError(
                f"a block is {block!r:.80}; text, image, tool_use and tool_result are taken"
            )

    def _picture(self, source: Mapping[str, Any]) -> EncodedPicture:
        self._pictures += 1
        if source.get("type") == "base64":
            return base64_picture(source.get("data"), self._pictures)
        return data_url_picture(source.get("url"), self._pictures)

    def _call(self, block: Mapping[str, Any]) -> ToolCall:
        name, call_id = field(block, "name", str, ""), field(block, "id", str, "")
        self._names[call_id] = name
        return ToolCall(name, call_arguments(block.get("input"), name), call_id)

    def _result(self, block: Mapping[str, Any]) -> ReceivedMessage:
        call_id = field(block, "tool_use_id", str, "")
        content = block.get("content")
        inner = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        if not isinstance(inner, list) or not all(isinstance(each, dict) for each in inner):
            raise UsageError(f"a tool_result has {content!r:.80}; it has to be a string or blocks")
        parts = tuple(part for each in inner for part in self._parts(each))
        return ReceivedMessage("tool", parts, (), self._names.get(call_id, ""), call_id)


class MessagesReply:
    """Writes one answer as a message of Anthropic's (`Reply`)."""

    def __init__(self, model: str) -> None:
        self._message = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._block: str | None = None
        self._index = -1
        self._has_begun = False

    def whole(self, answer: ReceivedAnswer) -> dict[str, Any]:
        """As `Reply.whole`."""
        assert answer.ending is not None
        content: list[dict[str, Any]] = []
        if answer.thought:
            content.append({"type": "thinking", "thinking": answer.thought, "signature": ""})
        if answer.text or not answer.tool_calls:
            content.append({"type": "text", "text": answer.text})
        content += [_used(call) | {"input": call.arguments} for call in answer.tool_calls]
        return {**self._message, "content": content, **_end(answer.ending)}

    def begin(self) -> Iterator[str]:
        """As `Reply.begin`: nothing, because the first event of a message holds its tokens."""
        return iter(())

    def pieces(self, event: Event | Ending | ToolCall) -> Iterator[str]:
        """As `Reply.pieces`."""
        if isinstance(event, PrefillProgress):
            yield from self._begin(event)
        elif isinstance(event, TextDelta):
            yield from self._open("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": event.text})
        elif isinstance(event, ThoughtDelta):
            yield from self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": event.text})
        elif isinstance(event, ToolCall):
            yield from self._open(event.call_id, _used(event) | {"input": {}})
            arguments = json.dumps(event.arguments, ensure_ascii=False)
            yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        elif isinstance(event, Ending):
            if self._index < 0:
                yield from self._open("text", {"type": "text", "text": ""})
            yield from self._close()
            end = _end(event)
            usage = end.pop("usage")
            yield _sent("message_delta", delta=end, usage=usage)
            yield _sent("message_stop")

    def failure(self, body: Mapping[str, Any]) -> str:
        """As `Reply.failure`."""
        return server_sent(body, "error")

    def _begin(self, event: PrefillProgress) -> Iterator[str]:
        if self._has_begun:
            yield _sent("ping")  # a long document is being read
            return
        self._has_begun = True
        usage = {
            "input_tokens": event.total_tokens - event.cached_tokens,
            "cache_read_input_tokens": event.cached_tokens,
            "cache_creation_input_tokens": 0,
            "output_tokens": 0,
        }
        ended = {"stop_reason": None, "stop_sequence": None}
        yield _sent(
            "message_start", message={**self._message, "content": [], **ended, "usage": usage}
        )

    def _open(self, name: str, block: Mapping[str, Any]) -> Iterator[str]:
        if self._block != name:
            yield from self._close()
            self._block, self._index = name, self._index + 1
            yield _sent("content_block_start", index=self._index, content_block=block)

    def _close(self) -> Iterator[str]:
        if self._block is not None:
            self._block = None
            yield _sent("content_block_stop", index=self._index)

    def _delta(self, delta: Mapping[str, Any]) -> str:
        return _sent("content_block_delta", index=self._index, delta=delta)


def _sent(kind: str, **fields: Any) -> str:
    return server_sent({"type": kind, **fields}, kind)


def _used(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.call_id, "name": call.name}


def _end(ending: Ending) -> dict[str, Any]:
    tokens = ending.done.tokens
    return {
        "stop_reason": _STOP_REASONS.get(ending.reason, "max_tokens"),
        "stop_sequence": ending.stop_text,
        "usage": {
            "input_tokens": tokens.input - tokens.cached,
            "cache_read_input_tokens": tokens.cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": tokens.output,
        },
    }
