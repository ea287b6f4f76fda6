"""A hub on the loopback, with the storage that it sends large files to, and all that can go wrong.

It answers as huggingface.co does: a small file is redirected to another address of the hub, which
wants the token, too; a large one, whatever stores it, to a signed address on another host, which
expires and must never see the token.
"""

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
_LARGE = (".safetensors", ".gguf")


class Hub:
    """What the servers hold and how they behave.

    Attributes:
        files: content by name.
        token: what a request for a file has to bring; empty for an open repository.
        cut_after: bytes of weights sent before the connection breaks, for each coming request.
        refused: `GatedRepo` or `RepoNotFound` for a hub that says so.
        busy: seconds to wait that the next answers for weights name, with 429; None for 503.
        expired: how many of the next signed addresses are too old when they are asked.
        resumes: whether byte ranges are served.
        requests: ranges asked for of the weights, in order.
        meeting: requests for weights that wait until as many are there; 0 for none.
        spoiled: whether other bytes than promised are sent.
        leaked: tokens that the storage was shown.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.token = self.refused = self.url = self.storage_url = ""
        self.cut_after: list[int] = []
        self.busy: list[int | None] = []
        self.expired = 0
        self.resumes, self.spoiled = True, False
        self.requests: list[str] = []
        self.meeting = 0
        self.met = threading.Event()
        self.leaked: list[str] = []

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(len(content) for content in self.files.values())

    def etag(self, name: str) -> str:
        """What the hub calls the content of a file."""
        content = self.files[name]
        return hashlib.sha256(content).hexdigest() if name.endswith(_LARGE) else _git_hash(content)

    def describe(self) -> bytes:
        """The answer of /api/models/NAME."""
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content)}
            entry["blobId"] = _git_hash(content)
            if name.endswith(_LARGE):
                size = len(content)
                entry["lfs"] = {"sha256": self.etag(name), "size": size, "pointerSize": 134}
                entry["xetHash"] = "0" * 64
            siblings.append(entry)
        gated = "manual" if self.token else False
        about = {"id": REPOSITORY, "sha": COMMIT, "gated": gated, "siblings": siblings}
        return json.dumps(about).encode()


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """What both servers share; `hub` is named by a subclass."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        """Headers alone."""
        self.answer()

    def do_GET(self) -> None:
        """Headers and content."""
        self.answer()

    def answer(self) -> None:
        """What the server says."""

    def send(
        self,
        status: HTTPStatus,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        """One answer, broken off after `cut` bytes of its body."""
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        self.close_connection = cut is not None

    def send_content(
        self, content: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        """The bytes that the request's range asks for."""
        asked = self.headers.get("Range")
        if not (asked and self.hub.resumes):
            self.send(HTTPStatus.OK, content, headers, cut)
            return
        first, last = asked.removeprefix("bytes=").split("-")
        begin, end = int(first), int(last) + 1 if last else len(content)
        spans = {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}
        part = content[begin:end]
        self.send(HTTPStatus.PARTIAL_CONTENT, part, {**(headers or {}), **spans}, cut)


class _HubHandler(_Handler):
    def answer(self) -> None:
        """Of huggingface.co."""
        hub, name = self.hub, self.path.rsplit("/", 1)[-1]
        allowed = not hub.token or self.headers.get("Authorization") == f"Bearer {hub.token}"
        if hub.refused:
            gated = hub.refused == "GatedRepo"
            status = HTTPStatus.FORBIDDEN if gated else HTTPStatus.NOT_FOUND
            self.send(status, headers={"X-Error-Code": hub.refused})
        elif self.path.startswith("/api/models/"):
            self.send(HTTPStatus.OK, hub.describe())
        elif name not in hub.files:
            self.send(HTTPStatus.NOT_FOUND, headers={"X-Error-Code": "EntryNotFound"})
        elif not allowed:
            self.send(HTTPStatus.UNAUTHORIZED, headers={"X-Error-Code": "GatedRepo"})
        elif self.path.startswith("/api/resolve-cache/"):
            known = {"X-Repo-Commit": COMMIT, "ETag": f'"{hub.etag(name)}"'}
            self.send_content(hub.files[name], known)
        else:
            self._redirect(name)

    def _redirect(self, name: str) -> None:
        hub = self.hub
        if name.endswith(_LARGE) and self.command == "GET" and hub.busy:
            wait_s = hub.busy.pop(0)
            said = {} if wait_s is None else {"Retry-After": str(wait_s)}
            busy = (
                HTTPStatus.SERVICE_UNAVAILABLE if wait_s is None else HTTPStatus.TOO_MANY_REQUESTS
            )
            self.send(busy, headers=said)
            return
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-ETag": f'"{hub.etag(name)}"',
            "X-Linked-Size": str(len(hub.files[name])),
            "ETag": '"of the redirect"',
        }
        if name.endswith(_LARGE):
            age = "old" if hub.expired > 0 and self.command == "GET" else "new"
            hub.expired -= age == "old"
            headers["Location"] = f"{hub.storage_url}/{name}?X-Amz-Signature={age}"
            self.send(HTTPStatus.FOUND, headers=headers)
        else:
            headers["Location"] = f"/api/resolve-cache/models/{REPOSITORY}/{COMMIT}/{name}"
            self.send(HTTPStatus.TEMPORARY_REDIRECT, headers=headers)


class _StorageHandler(_Handler):
    def answer(self) -> None:
        """Of the storage behind the hub."""
        hub, (path, _, query) = self.hub, self.path.partition("?")
        if "Authorization" in self.headers:
            hub.leaked.append(self.headers["Authorization"])
        if query != "X-Amz-Signature=new":
            self.send(HTTPStatus.FORBIDDEN, b"<Error><Code>ExpiredToken</Code></Error>")
            return
        content = hub.files[path.rsplit("/", 1)[-1]]
        hub.requests.append(self.headers.get("Range", ""))
        cut = hub.cut_after.pop(0) if hub.cut_after else None
        if len(hub.requests) >= hub.meeting:
            hub.met.set()
        hub.met.wait(timeout=20)
        self.send_content(bytes(len(content)) if hub.spoiled else content, cut=cut)


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Runs `hub` and its storage; its `url` is where."""
    servers = [
        ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (kind,), {"hub": hub}))
        for kind in (_HubHandler, _StorageHandler)
    ]
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        for server in servers
    ]
    for thread in threads:
        thread.start()
    hub.url = f"http://127.0.0.1:{servers[0].server_port}"
    hub.storage_url = f"http://localhost:{servers[1].server_port}"  # by name another host
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()
