"""Who may ask: a key, and no web page of strangers. Bodies are bounded here, too."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from rqchat.engine.foreign import border
from rqchat.engine.serving.http_errors import HttpError
from rqchat.errors import RqchatError

__all__ = ["Access", "is_local_socket", "is_loopback", "read_body"]

MOST_BODY_BYTES = 64 * 2**20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    return host in _LOOPBACK or host.startswith("127.")


def is_local_socket(scope: Mapping[str, Any]) -> bool:
    """Whether a request came through the Unix socket, which its owner alone can open."""
    server = scope.get("server")
    return server is not None and server[1] is None


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server.

    Attributes:
        key: what clients have to send; empty where none is needed.
        is_open: whether other machines reach the server.
    """

    key: str = ""
    is_open: bool = False

    def check(self, request: Request) -> None:
        """Lets `request` through, or not.

        Raises:
            HttpError: it comes without the key, or out of a web page of strangers.
        """
        if is_local_socket(request.scope):
            return
        self._check_page(request)
        if self.key and not hmac.compare_digest(_given_key(request).encode(), self.key.encode()):
            raise HttpError(401, "the key is wrong or missing: send Authorization: Bearer KEY")

    def _check_page(self, request: Request) -> None:
        """A page may post to any address without reading what comes back, and a name that it
        controls may suddenly mean this machine (DNS rebinding)."""
        origin = request.headers.get("origin")
        if origin is not None and not is_loopback(urlsplit(origin).hostname or ""):
            raise HttpError(403, f"web pages of {origin:.80} may not ask this server")
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if not self.is_open and not is_loopback(host):
            raise HttpError(403, f"this server is called localhost, not {host:.80}")


def _given_key(request: Request) -> str:
    """OpenAI's clients send a bearer token, Anthropic's a header of its own."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


async def read_body(request: Request) -> tuple[dict[str, Any], int]:
    """The JSON object in a request's body, and its bytes.

    Raises:
        HttpError: it is too large, or no object.
    """
    pieces, size = [], 0
    try:
        async for piece in request.stream():
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BODY_BYTES:
                raise HttpError(
                    413, f"the body has more than {MOST_BODY_BYTES >> 20} MiB; send less at once"
                )
    except ClientDisconnect:
        raise HttpError(400, "the client has gone") from None
    with border(_no_json):
        body = json.loads(b"".join(pieces))
    if not isinstance(body, dict):
        raise HttpError(400, "the body has to be a JSON object")
    return body, size


def _no_json(cause: str) -> RqchatError:
    return HttpError(400, f"the body is no JSON: {cause}")
