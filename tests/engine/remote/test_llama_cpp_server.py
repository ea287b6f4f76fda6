"""Every feature of `--server` against llama.cpp's own server, with the pocket model as GGUF."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import Done, Event, PrefillProgress, TextDelta
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import read_picture
from rqchat.engine.remote.remote_session import RemoteSession
from rqchat.engine.session_api import Session
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.errors import ContextLengthError, ModelError, UsageError
from rqchat.pocket.training.architecture import model_folder
from tests.engine.weights.gguf_models import write_gguf_folder

xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

KEY, CONTEXT_TOKENS = "sk-of-this-test", 4096
GREEDY = SamplingSettings(temperature=0.0, max_tokens=40)
SHAPES = Path(__file__).resolve().parents[3] / "docs" / "images" / "shapes.png"
NOTE = "The meeting is on Friday at noon in room 12. "


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pocket")
    write_gguf_folder(model_folder(), folder, "F32")
    params = xllamacpp.CommonParams()
    params.model.path = str(folder / "tiny.gguf")
    params.mmproj.path = str(folder / "mmproj-tiny.gguf")
    params.n_ctx, params.n_parallel, params.image_max_tokens = CONTEXT_TOKENS, 1, 70
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.api_keys = [KEY]
    params.warmup, params.n_batch, params.swa_full = False, 256, True
    running = xllamacpp.Server(params)
    yield f"{running.listening_address}/v1"
    del running


@pytest.fixture
def session(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteSession]:
    opened = _open(url, monkeypatch)
    yield opened
    opened.close()


def _open(url: str, monkeypatch: pytest.MonkeyPatch, key: str = KEY) -> RemoteSession:
    monkeypatch.setenv("RQCHAT_API_KEY", key)
    settings = Settings(model=url)
    assert settings.remote is not None
    return RemoteSession.open(settings.remote, settings)


def _done(events: list[Event]) -> tuple[str, Done]:
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert isinstance(events[-1], Done)
    return text, events[-1]


def test_a_text_is_counted_streamed_and_goes_on(session: RemoteSession) -> None:
    assert isinstance(session, Session)
    assert session.context_tokens == CONTEXT_TOKENS
    turn = UserTurn(NOTE + "When is the meeting?")
    counted = session.count_tokens(turn)
    events = list(session.ask(turn, GREEDY))
    text, done = _done(events)
    assert text == "The meeting is on Friday at noon."
    assert (done.stop_reason, done.tokens.input) == ("eos", counted)
    assert sum(isinstance(event, TextDelta) for event in events) == done.tokens.output - 1 > 5
    assert [message.role for message in session.messages] == ["user", "assistant"]
    # The next prompt begins with this one, which the server still has
    _, after = _done(list(session.ask(UserTurn("Where is it?"), GREEDY)))
    assert after.tokens.cached > 20
    assert session.used_tokens == after.tokens.input + after.tokens.output
    parts = session.context_parts()
    assert [part.kind for part in parts] == [*("question", "answer") * 2, "frame"]
    assert sum(part.tokens for part in parts) == session.count_tokens(UserTurn(""))


def test_a_long_document_tells_how_reading_goes(session: RemoteSession) -> None:
    book = Document("book.txt", "It was a quiet day at the sea. " * 80)
    events = list(session.ask(UserTurn("What was it?", documents=(book,)), GREEDY))
    _, done = _done(events)
    steps = [event for event in events if isinstance(event, PrefillProgress)]
    assert len({step.done_tokens for step in steps}) > 2
    assert steps[-1].done_tokens == steps[-1].total_tokens == done.tokens.input


def test_a_picture_is_counted_and_seen(session: RemoteSession) -> None:
    turn = UserTurn("What is in this picture?", (read_picture(SHAPES),))
    counted = session.count_tokens(turn)
    text, done = _done(list(session.ask(turn, GREEDY)))
    assert "a red circle on the left" in text
    assert done.tokens.input == counted > 70


def test_an_answer_goes_on_after_its_beginning(session: RemoteSession) -> None:
    turn = UserTurn(NOTE + "When is the meeting?")
    text, _ = _done(list(session.ask(turn, GREEDY, begun="The meeting is on")))
    assert text == " Friday at noon."
    assert session.messages[-1].text == "The meeting is on Friday at noon."


def test_json_matches_its_schema(session: RemoteSession) -> None:
    schema = '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}'
    text, _ = _done(list(session.ask(UserTurn("x or y?"), GREEDY, schema=schema)))
    assert json.loads(text)["a"] in ("x", "y")


def test_thinking_and_system_are_part_of_the_prompt(session: RemoteSession) -> None:
    turn = UserTurn("Hello")
    plain = session.count_tokens(turn)
    session.system = "Be brief."
    with_system = session.count_tokens(turn)
    assert with_system > plain
    session.thinking = True
    _, done = _done(list(session.ask(turn, GREEDY)))
    assert done.tokens.input > plain
    assert done.tokens.input != with_system


def test_too_long_is_found_before_and_by_the_server(
    session: RemoteSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = UserTurn("sea-sky " * 3000)
    with pytest.raises(ContextLengthError) as found:
        session.ask(long, GREEDY)
    assert found.value.context_tokens == CONTEXT_TOKENS
    # As with a server that neither counts nor says what it holds
    monkeypatch.setattr(session, "_context_tokens", 0)
    monkeypatch.setattr(session._counter, "_ways", [])
    with pytest.raises(ContextLengthError) as found:
        list(session.ask(long, GREEDY))
    assert found.value.context_tokens == CONTEXT_TOKENS < found.value.input_tokens
    assert session.messages == ()


def test_a_wrong_key_and_a_wrong_name_are_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="refuses the key"):
        _open(url, monkeypatch, "sk-wrong")
    with pytest.raises(ModelError, match=r"tiny\.gguf"):
        _open(f"{url}#qwen", monkeypatch)


def test_an_interruption_frees_the_server(session: RemoteSession, url: str) -> None:
    answer = session.ask(UserTurn("Tell me about the sea."), SamplingSettings(temperature=10.0))
    for event in answer:
        if isinstance(event, TextDelta):
            session.interrupt()
            break
    *_, done = answer
    assert isinstance(done, Done)
    assert done.stop_reason == "interrupted"
    assert session.messages[-1].interrupted
    request = urllib.request.Request(
        url.replace("/v1", "/slots"), headers={"Authorization": f"Bearer {KEY}"}
    )
    for _ in range(100):
        with urllib.request.urlopen(request, timeout=10) as response:
            if not json.load(response)[0]["is_processing"]:
                return
        time.sleep(0.1)
    pytest.fail("the server goes on with an answer that nobody reads")
