"""An answer as it is handed on: whole, or piece by piece; each protocol writes both in its way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rqchat.engine.conversation import ToolCall
from rqchat.engine.events import Event, TextDelta, ThoughtDelta
from rqchat.engine.serving.answering import Ending

__all__ = ["ReceivedAnswer", "Reply", "server_sent"]


@dataclass
class ReceivedAnswer:
    """What has come of an answer so far."""

    text: str = ""
    thought: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    ending: Ending | None = None

    def add(self, event: Event | Ending | ToolCall) -> None:
        """Another event of the answer."""
        if isinstance(event, TextDelta):
            self.text += event.text
        elif isinstance(event, ThoughtDelta):
            self.thought += event.text
        elif isinstance(event, ToolCall):
            self.tool_calls.append(event)
        elif isinstance(event, Ending):
            self.ending = event


class Reply(Protocol):
    """How one protocol writes one answer; an object serves one request."""

    def whole(self, answer: ReceivedAnswer) -> dict[str, Any]:
        """The body of a reply that is sent at once."""

    def pieces(self, event: Event | Ending | ToolCall) -> Iterator[str]:
        """What a stream gets for `event`, as server-sent events."""

    def begin(self) -> Iterator[str]:
        """What a stream begins with."""

    def failure(self, body: Mapping[str, Any]) -> str:
        """What a stream gets where the answer breaks off, for the body of an error."""


def server_sent(data: Mapping[str, Any] | str, event: str = "") -> str:
    """One server-sent event (WHATWG HTML, section 9.2)."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"event: {event}\ndata: {text}\n\n" if event else f"data: {text}\n\n"
