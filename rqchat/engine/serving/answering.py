"""Runs a request on the session: its texts as they come, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

from rqchat.engine.events import Done, Event, TextDelta
from rqchat.engine.serving.given_request import AnswerRequest, decoded
from rqchat.engine.serving.stop_filter import StopFilter
from rqchat.engine.session import ChatSession

__all__ = ["EndReason", "Ending", "answer_events"]

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


def answer_events(session: ChatSession, request: AnswerRequest) -> Iterator[Event | Ending]:
    """Answers `request`; the last event is an `Ending`.

    Raises:
        ContextLengthError: before the first event, when the prompt leaves no room for an answer.
        RqchatError: a picture cannot be used, or the answer cannot go on.
    """
    session.thinking = request.thinking
    messages = decoded(request.messages)
    events = session.answer(messages, request.sampling, begun=request.begun, schema=request.schema)
    stop = StopFilter(request.stops)
    with closing(events):
        for event in events:
            if isinstance(event, TextDelta):
                if shown := stop.add(event.text):
                    yield replace(event, text=shown)
                if stop.found is not None:
                    session.interrupt()
            elif isinstance(event, Done):
                if stop.found is None and (held := stop.end()):
                    yield TextDelta(held)
                yield _ending(event, stop.found)
            else:
                yield event


def _ending(done: Done, stop_text: str | None) -> Ending:
    if stop_text is not None:
        return Ending("stop_text", stop_text, done)
    reason: EndReason = "stop" if done.stop_reason == "eos" else done.stop_reason
    return Ending(reason, None, done)
