"""A small HTTP server that replays what OpenAI-compatible servers were recorded to send."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["ServerStub", "chunk", "stub_server"]


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> str:
    """One line of a stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return f"data: {json.dumps({'id': 'c', 'choices': choices, **more})}\n\n"


class ServerStub:
    """What the server answers, and what it was asked.

    Attributes:
        models: the entries of `/v1/models`.
        counts: tokens by path; other ways to count are not there.
        answers: of each chat completion in turn a status and its body, the last again and again.
        asked: path and body of every request.
        keys: the authorization of every request.
        gone: set once a client has left in the middle of an answer.
        holds: whether an answer stays open at its end.
    """

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = [{"id": "gemma", "max_model_len": 16_384}]
        self.counts: dict[str, dict[str, int]] = {}
        self.answers: list[tuple[int, str | bytes]] = []
        self.asked: list[tuple[str, Any]] = []
        self.keys: list[str] = []
        self.gone = threading.Event()
        self.holds = False
        self.url = ""

    def says(self, *pieces: str, **usage: Any) -> None:
        """Answers with these pieces of text, an end, and this usage."""
        lines = [chunk({"content": piece}) for piece in pieces] + [chunk({}, "stop")]
        self.streams(*lines, *([chunk(usage=usage)] if usage else []), "data: [DONE]\n\n")

    def streams(self, *lines: str) -> None:
        """Answers with these lines."""
        self.answers.append((200, "".join(lines)))

    def refuses(self, status: int, **error: Any) -> None:
        """Answers with an error."""
        self.answers.append((status, json.dumps({"error": error})))

    @property
    def questions(self) -> list[Any]:
        """The bodies of all chat completions."""
        return [body for path, body in self.asked if path == "/v1/chat/completions"]


def _handler(stub: ServerStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._note(None)
            found = {"data": stub.models} if self.path == "/v1/models" else None
            self._send(200 if found else 404, json.dumps(found or {"error": {"message": "no"}}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._note(body)
            if self.path in stub.counts:
                self._send(200, json.dumps(stub.counts[self.path]))
            elif self.path == "/v1/chat/completions":
                self._send(*(stub.answers.pop(0) if len(stub.answers) > 1 else stub.answers[0]))
            else:
                self._send(404, json.dumps({"error": {"message": "Not Found"}}))

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _note(self, body: Any) -> None:
            stub.asked.append((self.path, body))
            stub.keys.append(self.headers.get("Authorization", ""))

        def _send(self, status: int, body: str | bytes) -> None:
            sent = body if isinstance(body, bytes) else body.encode()
            is_stream = sent.startswith(b"data:")
            kind = "text/event-stream" if is_stream else "application/json"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if not is_stream:
                self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)
            self.wfile.flush()
            if is_stream and stub.holds and self.connection.recv(1) == b"":
                stub.gone.set()

    return Handler


@contextmanager
def stub_server() -> Iterator[ServerStub]:
    """A stub that listens on a port of its own."""
    stub = ServerStub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stub))
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
