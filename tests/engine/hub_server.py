"""A hub on the loopback: one repository, byte ranges, and a connection that breaks when told to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["COMMIT", "REPOSITORY", "Hub", "serve"]

REPOSITORY = "someone/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server holds and how it behaves.

    Attributes:
        files: content by name.
        cut_after: bytes of weights sent before the connection breaks, for each coming request.
        refused: `GatedRepo` or `RepoNotFound` for a hub that says so.
        resumes: whether byte ranges are served.
        requests: ranges asked for of the weights, in order.
        spoiled: whether other bytes than promised are sent.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.cut_after: list[int] = []
        self.refused = ""
        self.resumes = True
        self.spoiled = False
        self.requests: list[str] = []
        self.url = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(len(content) for content in self.files.values())

    def describe(self) -> bytes:
        """The answer of /api/models/NAME."""
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content)}
            entry["blobId"] = _git_hash(content)
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 1}
            siblings.append(entry)
        return json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """Answers for `hub`, which a subclass names."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        """Headers alone."""
        self._answer(with_body=False)

    def do_GET(self) -> None:
        """Headers and content."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        name = self.path.rsplit("/", 1)[-1]
        if self.hub.refused:
            gated = self.hub.refused == "GatedRepo"
            status = HTTPStatus.FORBIDDEN if gated else HTTPStatus.NOT_FOUND
            self._send(status, b"", {"X-Error-Code": self.hub.refused}, with_body)
        elif self.path.startswith("/api/models/"):
            self._send(HTTPStatus.OK, self.hub.describe(), {}, with_body)
        elif name in self.hub.files:
            self._send_file(name, with_body)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"", {"X-Error-Code": "EntryNotFound"}, with_body)

    def _send_file(self, name: str, with_body: bool) -> None:
        hub, content = self.hub, self.hub.files[name]
        is_weights = name.endswith(".safetensors")
        etag = hashlib.sha256(content).hexdigest() if is_weights else _git_hash(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range") if with_body else None
        begin, status = 0, HTTPStatus.OK
        if asked and hub.resumes:
            begin, status = int(asked.removeprefix("bytes=")[:-1]), HTTPStatus.PARTIAL_CONTENT
        if is_weights and asked:
            hub.requests.append(asked)
        if is_weights and hub.spoiled:
            content = bytes(len(content))
        cut = hub.cut_after.pop(0) if is_weights and asked and hub.cut_after else None
        self._send(status, content[begin:], headers, with_body, cut)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        headers: dict[str, str],
        with_body: bool,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[:cut])
        self.close_connection = cut is not None


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Runs `hub`; its `url` is where."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
