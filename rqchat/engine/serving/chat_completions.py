"""OpenAI's chat completions: what a request says, and how an answer is written."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from rqchat.engine.conversation import GivenRole, ToolCall
from rqchat.engine.events import Event, PrefillProgress, TextDelta, ThoughtDelta
from rqchat.engine.generation.json_schema import check_schema
from rqchat.engine.serving.answering import Ending
from rqchat.engine.serving.given_request import (
    AnswerRequest,
    EncodedPicture,
    ReceivedMessage,
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

__all__ = ["ChatReply", "PartReader", "finish_reason", "read_chat_request", "schema_of", "usage_of"]

_ROLES: dict[str, GivenRole] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_NO_THOUGHT = ("none", "minimal")


def read_chat_request(body: Mapping[str, Any], *, thinks: bool) -> AnswerRequest:
    """The answer that `body` asks for; fields that are not known are ignored.

    Raises:
        UsageError: a field is of the wrong kind, or there is nothing to answer.
    """
    if field(body, "n", int, 1) != 1:
        raise UsageError(f"n is {body['n']}; this server gives one answer, so ask several times")
    given = field(body, "messages", list, [])
    reader = PartReader()
    messages = without_late_systems(tuple(_message(reader, each) for each in given))
    most = body.get("max_completion_tokens")
    most = field(body, "max_tokens", int, None) if most is None else most
    tools = named_tools([t for t in field(body, "tools", list, []) if not _is_foreign(t)])
    choice = field(body, "tool_choice", (str, dict), "auto")
    request = AnswerRequest(
        messages,
        sampling_of(body, None if most == -1 else most),
        thinking=_thinks(body, thinks),
        stops=stop_texts(body.get("stop"), "stop"),
        schema=_response_schema(field(body, "response_format", dict, {})),
        tools=() if choice == "none" else tools,
        forced_tools=_forced(tools, choice),
    )
    return request.with_last_answer_begun()


def _is_foreign(tool: Any) -> bool:
    """Whether a tool is one that OpenAI's own servers run, such as a search."""
    return isinstance(tool, dict) and tool.get("type") not in (None, "function")


def _forced(tools: tuple[Mapping[str, Any], ...], choice: Any) -> tuple[Mapping[str, Any], ...]:
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else choice.get("name")
        return forced_tool(tools, str(name))
    if choice not in ("auto", "none", "required"):
        raise UsageError(f"tool_choice is {choice!r:.80}; allowed are auto, none, required")
    return forced_tool(tools, None) if choice == "required" else ()


class PartReader:
    """Reads the contents of one request's messages, and numbers its pictures."""

    def __init__(self) -> None:
        self._pictures = 0

    def parts(self, content: Any) -> tuple[str | EncodedPicture, ...]:
        """Texts and pictures of a content, which is a string, parts in any order, or nothing.

        Raises:
            UsageError: it is something else.
        """
        if content is None:
            return ()
        if isinstance(content, str):
            return (content,)
        if not isinstance(content, list):
            raise UsageError(f"a content is {content!r:.80}; it has to be a string or an array")
        return tuple(self._part(part) for part in content)

    def _part(self, part: Any) -> str | EncodedPicture:
        if isinstance(part, str):
            return part
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("text", "input_text", "output_text", "refusal"):
            text = part.get("refusal" if kind == "refusal" else "text")
            if isinstance(text, str):
                return text
        if kind in ("image_url", "input_image"):
            self._pictures += 1
            url = part.get("image_url")
            return data_url_picture(
                url.get("url") if isinstance(url, dict) else url, self._pictures
            )
        raise UsageError(
            f"a part of a content is {part!r:.80}; parts of type text and image_url are taken"
        )


def _message(reader: PartReader, given: Any) -> ReceivedMessage:
    if not isinstance(given, dict) or given.get("role") not in _ROLES:
        raise UsageError(
            f"a message is {given!r:.80}; it has to be an object whose role is one of"
            f" {', '.join(_ROLES)}"
        )
    calls = tuple(_tool_call(each) for each in field(given, "tool_calls", list, []))
    return ReceivedMessage(
        _ROLES[given["role"]],
        reader.parts(given.get("content")),
        calls,
        field(given, "name", str, ""),
        field(given, "tool_call_id", str, ""),
    )


def _tool_call(given: Any) -> ToolCall:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UsageError(f"a tool call is {given!r:.80}; it has to have a function with a name")
    arguments = call_arguments(function.get("arguments"), function["name"])
    return ToolCall(function["name"], arguments, str(given.get("id") or ""))


def _thinks(body: Mapping[str, Any], default: bool) -> bool:
    """Whether thoughts are asked for, in the ways of llama.cpp, vLLM and OpenAI."""
    asked = field(body, "chat_template_kwargs", dict, {}).get("enable_thinking")
    if isinstance(asked, bool):
        return asked
    effort = field(body, "reasoning_effort", str, None)
    return default if effort is None else effort not in _NO_THOUGHT


def _response_schema(form: Mapping[str, Any]) -> str | None:
    kind = form.get("type")
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        # The schema stands beside the type in llama.cpp's form
        return schema_of(form.get("schema") or {"type": "object"}, "response_format")
    if kind == "json_schema":
        inner = form.get("json_schema")
        return schema_of(
            inner.get("schema") if isinstance(inner, dict) else form.get("schema"),
            "response_format",
        )
    raise UsageError(
        f"response_format is of type {kind!r:.80}; allowed are text, json_object, json_schema"
    )


def schema_of(schema: Any, name: str) -> str:
    """A JSON schema that answers can be held to.

    Raises:
        UsageError: it is none, or uses what cannot be guaranteed.
    """
    if not isinstance(schema, dict):
        raise UsageError(f"{name} has the schema {schema!r:.80}; it has to be an object")
    return check_schema(json.dumps(schema), name)


def finish_reason(ending: Ending) -> str:
    """OpenAI's word for an end: an answer that was cut short is never `stop`."""
    if ending.reason in ("stop", "stop_text"):
        return "stop"
    return "tool_calls" if ending.reason == "tool_calls" else "length"


def usage_of(ending: Ending) -> dict[str, Any]:
    """Token counts, those that were in the cache among them."""
    tokens = ending.done.tokens
    return {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
        "prompt_tokens_details": {"cached_tokens": tokens.cached},
    }


class ChatReply:
    """Writes one answer as a chat completion (`Reply`)."""

    def __init__(self, body: Mapping[str, Any], model: str) -> None:
        options = field(body, "stream_options", dict, {})
        self._with_usage = bool(options.get("include_usage"))
        self._with_progress = body.get("return_progress") is True
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._calls = 0

    def whole(self, answer: ReceivedAnswer) -> dict[str, Any]:
        """As `Reply.whole`."""
        assert answer.ending is not None
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.thought:
            # llama.cpp's name and vLLM's
            message |= {"reasoning_content": answer.thought, "reasoning": answer.thought}
        if answer.tool_calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [_written_call(call) for call in answer.tool_calls]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(answer.ending),
            "stop_reason": _stop_reason(answer.ending),
        }
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage_of(answer.ending),
        }

    def begin(self) -> Iterator[str]:
        """As `Reply.begin`."""
        yield self._chunk({"role": "assistant", "content": ""})

    def pieces(self, event: Event | Ending | ToolCall) -> Iterator[str]:
        """As `Reply.pieces`."""
        if isinstance(event, TextDelta):
            yield self._chunk({"content": event.text})
        elif isinstance(event, ThoughtDelta):
            yield self._chunk({"reasoning_content": event.text, "reasoning": event.text})
        elif isinstance(event, ToolCall):
            yield self._chunk({"tool_calls": [{"index": self._calls, **_written_call(event)}]})
            self._calls += 1
        elif isinstance(event, PrefillProgress):
            yield self._progress(event)
        elif isinstance(event, Ending):
            ended = {"finish_reason": finish_reason(event), "stop_reason": _stop_reason(event)}
            yield self._chunk({}, **ended)
            if self._with_usage:
                yield server_sent(self._object([]) | {"usage": usage_of(event)})
            yield server_sent("[DONE]")

    def failure(self, body: Mapping[str, Any]) -> str:
        """As `Reply.failure`."""
        return server_sent(body)

    def _progress(self, event: PrefillProgress) -> str:
        """In llama.cpp's form where it was asked for; else a comment, which keeps a reader from
        taking a long document for a dead server."""
        if not self._with_progress:
            return f": read {event.done_tokens} of {event.total_tokens} tokens\n\n"
        progress = {
            "total": event.total_tokens,
            "cache": event.cached_tokens,
            "processed": event.done_tokens,
            "time_ms": round(event.elapsed_s * 1000),
        }
        return server_sent(
            self._object([_choice({"role": "assistant", "content": None})])
            | {"prompt_progress": progress}
        )

    def _chunk(self, delta: Mapping[str, Any], **ended: Any) -> str:
        return server_sent(self._object([_choice(delta, **ended)]))

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}


def _choice(delta: Mapping[str, Any], **ended: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **ended}


def _stop_reason(ending: Ending) -> str | None:
    """vLLM's field: the stop text, or what OpenAI has no word for."""
    return ending.stop_text or ("repetition" if ending.reason == "repetition" else None)


def _written_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.call_id, "type": "function", "function": function}
