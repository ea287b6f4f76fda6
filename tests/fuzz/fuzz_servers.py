"""What a server elsewhere may send: damaged lists of models, counts, refusals and streams."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Done, TextDelta
from rqchat.engine.remote.address import parse_address
from rqchat.engine.remote.remote_session import RemoteSession
from rqchat.engine.settings import SamplingSettings, Settings
from tests.engine.remote.server_stub import ServerStub, chunk, stub_server
from tests.fuzz.damage import damaged

__all__ = ["try_one"]

_VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e308, 10**30, "", "12", "gemma", [], {}, [[]], {"id": {}}),
    *("\x1b]0;x\x07", "\u202ea", "\ud800", "a" * 5000),
)
_COUNTERS = ("/v1/messages/count_tokens", "/tokenize", "/v1/tokenize")


def try_one(made: random.Random, folder: Path) -> None:
    """An answer that came to its end holds what was said; everything else is a sentence."""
    with stub_server() as stub:
        _prepare(made, stub)
        session = RemoteSession.open(parse_address(stub.url), Settings(model="auto"))
        try:
            events = list(session.ask(UserTurn("Hello?"), SamplingSettings()))
        finally:
            session.close()
        said = any(isinstance(event, TextDelta) for event in events)
        assert isinstance(events[-1], Done) and said == bool(session.messages[-1].text)


def _prepare(made: random.Random, stub: ServerStub) -> None:
    for entry in stub.models:
        if made.random() < 0.2:
            entry[made.choice(("id", "max_model_len", "meta", "n_ctx"))] = made.choice(_VALUES)
    if made.random() < 0.1:
        stub.models = made.choice(([], stub.models * 2, [made.choice(_VALUES)]))
    if made.random() < 0.7:
        stub.counts = {
            made.choice(_COUNTERS): made.choice(
                ({"input_tokens": 20}, {"count": 20}, {"input_tokens": made.choice(_VALUES)}, {})
            )
        }
    status = made.choice((200, 200, 200, 200, 204, 302, 400, 401, 404, 422, 429, 500, 503))
    body = _stream(made) if status == 200 else json.dumps(_any(made, "error")).encode()
    stub.answers = [(status, damaged(made, body, most=made.choice((0, 1, 6))))]


def _stream(made: random.Random) -> bytes:
    lines = [chunk({"content": text}) for text in ("Good ", "\u00e4\u20ac", " day")]
    lines.append(chunk({}, made.choice(("stop", "length", "tool_calls", None))))
    lines.append(
        chunk(usage={"prompt_tokens": 20, "completion_tokens": made.choice((3, -1, 10**9))})
    )
    lines.append("data: [DONE]\n\n")
    for _ in range(made.choice((0, 1, 3))):
        odd = _any(made, made.choice(("choices", "usage", "error", "delta", "prompt_progress")))
        lines.insert(made.randrange(len(lines)), f"data: {json.dumps(odd)}\n\n")
    return "".join(lines).encode()


def _any(made: random.Random, name: str) -> dict[str, Any]:
    value = made.choice(_VALUES)
    shape = made.choice((value, {"message": value, "code": value}, [{"delta": value, "index": 0}]))
    return {name: shape} | ({"choices": shape} if made.random() < 0.3 else {})
