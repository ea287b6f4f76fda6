"""OpenAI's chat completions, asked by its own client and by raw requests."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import TextDelta
from rqchat.engine.settings import SamplingSettings
from tests.engine.serving.running_server import CONTEXT_TOKENS, RunningServer, picture_url

GREEDY: dict[str, Any] = {"model": "any", "temperature": 0}
NOTE = "The spare key is kept in the blue cabinet. The meeting is on Friday."
QUESTION = f"{NOTE}\n\nWhere is the spare key kept?"


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts) if len(parts) > 1 else parts[0]}]


def text_of(part: str) -> dict[str, str]:
    return {"type": "text", "text": part}


def picture_of(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_the_same_greedy_answer_whole_streamed_raw_and_asked(
    server: RunningServer, client: openai.OpenAI
) -> None:
    whole = client.chat.completions.create(messages=user(QUESTION), **GREEDY)
    pieces = list(
        client.chat.completions.create(
            messages=user(QUESTION), stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    body = {"messages": user(QUESTION), "temperature": 0, "unknown": 1}
    status, raw = server.send("POST", "/v1/chat/completions", body)
    asked = server.session.ask(UserTurn(QUESTION), SamplingSettings(temperature=0))
    answer = "".join(event.text for event in asked if isinstance(event, TextDelta))
    server.session.clear()
    streamed = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert "blue cabinet" in answer and status == 200
    assert whole.choices[0].message.content == streamed == answer
    assert raw["choices"][0]["message"]["content"] == answer
    assert whole.choices[0].finish_reason == "stop"
    assert pieces[-2].choices[0].finish_reason == "stop" and pieces[-1].choices == []
    usage, first = pieces[-1].usage, whole.usage
    assert usage is not None and first is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        first.prompt_tokens,
        first.completion_tokens,
    )
    details = usage.prompt_tokens_details
    assert details is not None and details.cached_tokens
    assert 0 < details.cached_tokens < usage.prompt_tokens


def test_pictures_and_texts_come_in_any_order(client: openai.OpenAI) -> None:
    question, picture = text_of("What is in this picture?"), picture_of(picture_url())
    first, second = (
        client.chat.completions.create(messages=user(*parts), **GREEDY)
        for parts in ((picture, question), (question, picture))
    )
    assert "circle" in (first.choices[0].message.content or "")
    assert first.usage is not None and second.usage is not None
    # The order is kept: what was read of the one is of no use to the other
    assert first.usage.prompt_tokens == second.usage.prompt_tokens > 70
    details = second.usage.prompt_tokens_details
    assert details is not None and (details.cached_tokens or 0) < 10


def test_the_roles_that_clients_send(client: openai.OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [text_of("Answer in English.")]},
        *user(NOTE),
        {"role": "assistant", "content": "Noted."},
        *user("Where is the spare key kept?"),
    ]
    answer = client.chat.completions.create(messages=messages, max_completion_tokens=40, **GREEDY)
    assert "cabinet" in (answer.choices[0].message.content or "")


def test_stop_texts_limits_and_answers_that_are_begun(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    stopped = create(messages=user(QUESTION), stop=["never there", "cabinet"], **GREEDY)
    text = stopped.choices[0].message.content or ""
    assert "cabinet" not in text and "blue" in text and stopped.choices[0].finish_reason == "stop"
    cut = create(messages=user(QUESTION), max_tokens=2, **GREEDY)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None and cut.usage.completion_tokens == 2
    begun: list[Any] = [*user(QUESTION), {"role": "assistant", "content": text.strip()}]
    rest = create(messages=begun, max_tokens=20, **GREEDY).choices[0].message.content or ""
    assert rest.strip().startswith("cabinet")


def test_a_seed_repeats_a_sampled_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "any", "temperature": 5, "top_p": 1, "max_tokens": 12}
    said = [
        client.chat.completions.create(messages=user("Tell me a story."), seed=seed, **asked)
        for seed in (5, 5, 6)
    ]
    texts = [each.choices[0].message.content for each in said]
    assert texts[0] == texts[1] != texts[2]


def test_a_prompt_that_is_too_long_is_refused_and_never_cut(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                messages=user("a fact " * CONTEXT_TOKENS), stream=stream, **GREEDY
            )
        assert caught.value.body is not None and caught.value.code == "context_length_exceeded"
        said = dict(caught.value.body)["message"]  # pyrefly: ignore
        known = re.match(r"This model's maximum context length is (\d+) tokens", said)
        assert known and int(known[1]) == CONTEXT_TOKENS
        assert dict(caught.value.body)["n_prompt_tokens"] > CONTEXT_TOKENS  # pyrefly: ignore


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no JSON"),
        (b"[]", "JSON object"),
        ({}, "no question"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no question"),
        ({"messages": ["x"]}, "a message is"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": user(1)}, "content"),
        ({"messages": user({"type": "input_audio"})}, "content"),
        ({"messages": user({"type": "input_audio"}, "x")}, "part"),
        ({"messages": user(picture_of("https://example.org/a.png"), "x")}, "fetches nothing"),
        ({"messages": user(picture_of("data:image/png;base64,!"), "x")}, "base64"),
        ({"messages": user(picture_of("data:image/png;base64,AAAA"), "x")}, "picture 1"),
        ({"messages": user("x"), "temperature": "hot"}, "temperature"),
        ({"messages": user("x"), "top_p": 7}, "top-p"),
        ({"messages": user("x"), "n": 3}, "n is 3"),
        ({"messages": user("x"), "stop": [1]}, "stop"),
        ({"messages": user("x"), "max_tokens": 0}, "max-tokens"),
        ({"messages": user("x"), "response_format": {"type": "xml"}}, "response_format"),
        ({"messages": user(*[picture_of(picture_url())] * 33)}, "at most 32 pictures"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    server: RunningServer, body: Any, said: str
) -> None:
    status, answer = server.send("POST", "/v1/chat/completions", body)
    assert status == 400 and said in answer["error"]["message"]


def test_a_body_that_is_too_large_is_refused(server: RunningServer) -> None:
    connection = server.connect()
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    piece = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    try:
        for _ in range(65):
            connection.send(piece)
        connection.send(b"0\r\n\r\n")
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # it was said before all was sent
    connection.close()
    assert status == 413


def test_pages_of_strangers_may_not_ask(server: RunningServer) -> None:
    body = {"messages": user("x")}
    path = "/v1/chat/completions"
    assert server.send("POST", path, body, Origin="https://example.org")[0] == 403
    assert server.send("POST", path, body, Host="evil.example.org")[0] == 403
    assert server.send("GET", "/v1/models", Origin="http://localhost:3000")[0] == 200


def test_models_and_health(server: RunningServer, client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "pocket" == client.models.retrieve("pocket").id
    listed = server.send("GET", "/v1/models")[1]["data"][0]
    assert listed["max_model_len"] == listed["meta"]["n_ctx"] == CONTEXT_TOKENS
    assert server.send("GET", "/health") == (200, {"status": "ok"})
    assert server.send("GET", "/v1/engines")[0] == 404


def _counted(server: RunningServer, name: str) -> int:
    with urllib.request.urlopen(f"{server.url}/metrics") as page:
        found = re.search(rf"^{re.escape(name)} (\d+)$", page.read().decode(), re.MULTILINE)
    return int(found[1]) if found else 0


def test_what_was_answered_is_counted(server: RunningServer, client: openai.OpenAI) -> None:
    names = ('rqchat_requests_total{reason="length"}', "rqchat_output_tokens_total")
    before = [_counted(server, name) for name in names]
    client.chat.completions.create(messages=user(QUESTION), max_tokens=2, **GREEDY)
    after = [_counted(server, name) for name in names]
    assert after == [before[0] + 1, before[1] + 2]


def test_sixty_four_clients_wait_and_none_is_lost(
    server: RunningServer, client: openai.OpenAI
) -> None:
    def ask(number: int) -> str | None:
        answer = client.chat.completions.create(
            messages=user(f"Hello {number}"), max_tokens=1, **GREEDY
        )
        return answer.choices[0].finish_reason

    with ThreadPoolExecutor(64) as pool:
        assert [*pool.map(ask, range(64))] == ["length"] * 64


def test_a_client_that_goes_frees_the_model(server: RunningServer, client: openai.OpenAI) -> None:
    """Also one that waits, and one whose answer is not streamed."""
    story = {"messages": user("Tell me a long story. " * 300), "temperature": 1.5, "top_p": 1}
    before = server.http.answered
    for streams in (True, False):
        connections = [server.connect() for _ in range(3)]
        for connection in connections:
            body = json.dumps({**story, "stream": streams})
            connection.request("POST", "/v1/chat/completions", body)
        if streams:
            connections[0].getresponse().read(10)
        else:
            _until(lambda: server.http.waiting == 2)
        for connection in connections:
            assert connection.sock is not None
            connection.sock.close()
            connection.close()
        answer = client.chat.completions.create(messages=user("Hello"), max_tokens=1, **GREEDY)
        assert answer.choices[0].finish_reason == "length"
    # Those that waited were never begun
    assert server.http.answered - before <= 4


def _until(holds: Any) -> None:
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        threading.Event().wait(0.01)
