"""One server over the pocket model, in a thread, for all tests of this folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import openai
import pytest

from rqchat.engine.serving.http_server import HttpServer, ServeSettings, open_port
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import Settings
from tests.engine.serving.running_server import CONTEXT_TOKENS, RunningServer


@pytest.fixture(scope="session")
def pocket() -> ChatSession:
    settings = Settings(model="pocket", device="cpu", context_tokens=CONTEXT_TOKENS)
    session = ChatSession.open(settings)
    session.keep_conversations(100_000_000)
    return session


@pytest.fixture(scope="session")
def server(pocket: ChatSession) -> Iterator[RunningServer]:
    settings = ServeSettings(port=0)
    listening = open_port(settings)
    http, ready = HttpServer(pocket, [listening], settings), threading.Event()
    thread = threading.Thread(target=http.run, args=(ready.set,))
    thread.start()
    assert ready.wait(30)
    yield RunningServer(listening.getsockname()[1], http, pocket)
    http.stop()
    thread.join()


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client
