"""Runs a request on the session: its texts and calls as they come, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

from rqchat.engine.conversation import ToolCall
from rqchat.engine.events import Done, Event, TextDelta, ToolRequest
from rqchat.engine.serving.given_request import AnswerRequest, decoded
from rqchat.engine.serving.stop_filter import StopFilter
from rqchat.engine.serving.tool_use import call_of_json, forced_schema, new_call_id
from rqchat.engine.session import ChatSession

__all__ = ["EndReason", "Ending", "answer_events", "count_tokens"]

EndReason = Literal["stop", "length", "stop_text", "repetition", "interrupted", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Ending:
    """The last event of an answer.

    Attributes:
        reason: why it ended; `stop` is the model's own end.
        stop_text: the text that was asked to end it, where it did.
        done: counts and times.
    """

    reason: EndReason
    stop_text: str | None
    done: Done


def answer_events(
    session: ChatSession, request: AnswerRequest
) -> Iterator[Event | Ending | ToolCall]:
    """Answers `request`; the last event is an `Ending`.

    Raises:
        ContextLengthError: before the first event, when the prompt leaves no room for an answer.
        RqchatError: a picture cannot be used, or the answer cannot go on.
    """
    session.thinking = request.thinking
    schema = forced_schema(request.forced_tools) if request.forced_tools else request.schema
    events = session.answer(
        decoded(request.messages),
        request.sampling,
        begun=request.begun,
        schema=schema,
        tools=request.tools,
    )
    with closing(events):
        yield from _forced_call(events) if request.forced_tools else _free(events, session, request)


def count_tokens(session: ChatSession, request: AnswerRequest) -> Iterator[int]:
    """The tokens of the prompt that `answer_events` would make, as the only event.

    Raises:
        RqchatError: a picture cannot be used.
    """
    session.thinking = request.thinking
    yield session.count(decoded(request.messages), request.tools)


def _free(
    events: Iterator[Event], session: ChatSession, request: AnswerRequest
) -> Iterator[Event | Ending | ToolCall]:
    stop, has_called = StopFilter(request.stops), False
    for event in events:
        if isinstance(event, TextDelta):
            if shown := stop.add(event.text):
                yield replace(event, text=shown)
            if stop.found is not None:
                session.interrupt()
        elif isinstance(event, ToolRequest):
            has_called = True
            yield ToolCall(event.name, event.arguments, new_call_id())
        elif isinstance(event, Done):
            if stop.found is None and (held := stop.end()):
                yield TextDelta(held)
            yield _ending(event, stop.found, has_called=has_called)
        else:
            yield event


def _forced_call(events: Iterator[Event]) -> Iterator[Event | Ending | ToolCall]:
    """The JSON of a call that has to come, as the call."""
    text = ""
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, Done):
            call = call_of_json(text)
            if call is not None:
                yield call
            yield _ending(event, None, has_called=call is not None)
        else:
            yield event


def _ending(done: Done, stop_text: str | None, *, has_called: bool) -> Ending:
    if stop_text is not None:
        return Ending("stop_text", stop_text, done)
    if has_called and done.stop_reason == "eos":
        return Ending("tool_calls", None, done)
    return Ending("stop" if done.stop_reason == "eos" else done.stop_reason, None, done)
