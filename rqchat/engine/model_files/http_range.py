"""The bytes of a file on the hub, wherever the hub sends us for them. No torch.

The hub answers with a redirect: to an address of its own for small files and renamed models, to a
signed and soon expiring one on other hosts for large ones (also where Xet stores them). The token
is for the hub alone.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import IO, Any
from urllib.parse import urlsplit

import huggingface_hub as hub
import huggingface_hub.constants  # which the package does not load by itself

from rqchat import __version__
from rqchat.engine.proxies import ProxyHandler, tls_context

__all__ = ["LONGEST_WAIT_S", "is_of_hub", "open_range", "pause_s"]

LONGEST_WAIT_S = 120.0
_TIMEOUT_S = 30.0
_BUSY_S = 10.0  # where a server that is busy does not say for how long
_TROUBLED = (408, 429, 500, 502, 503, 504)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Takes the token along to addresses of the same host, never to another one."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to follow a redirect with; only http and https are followed."""
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(newurl, code, f"redirect to {newurl}", headers, fp)
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.get_header("Authorization")
        if new is not None and token and _origin(newurl) == _origin(req.full_url):
            # Urllib takes every other header along to the next host.
            new.add_unredirected_header("Authorization", token)
        return new


def open_range(url: str, begin: int, end: int | None = None) -> http.client.HTTPResponse:
    """The answer to a request for the bytes of `url` from `begin` up to `end`, which None leaves
    out; all of them with status 200.

    Raises:
        urllib.error.HTTPError: the hub, or the storage that it names, refuses.
        OSError: no connection.
        UsageError: the proxy or the certificates that the environment names cannot be used.
    """
    last = "" if end is None else end - 1
    headers = {"Range": f"bytes={begin}-{last}", "User-Agent": f"rqchat/{__version__}"}
    request = urllib.request.Request(url, headers=headers)
    token = hub.get_token()
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    https = urllib.request.HTTPSHandler(context=tls_context())
    opener = urllib.request.build_opener(ProxyHandler(), https, _Redirects)
    response: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT_S)
    return response


def is_of_hub(error: urllib.error.HTTPError) -> bool:
    """Whether the hub itself refused, and not a storage that it redirected to."""
    return _origin(error.url or hub.constants.ENDPOINT) == _origin(hub.constants.ENDPOINT)


def pause_s(error: urllib.error.HTTPError) -> float | None:
    """How long to wait before another try; None where none would help.

    An address that expired on its way is asked for anew.
    """
    if error.code in _TROUBLED:
        after = (error.headers.get("Retry-After") or "").strip() if error.headers else ""
        # A header with a date counts as one that does not say.
        wait_s = float(after) if after.isdigit() else (_BUSY_S if error.code == 429 else 0.0)
        return wait_s if wait_s <= LONGEST_WAIT_S else None
    return None if is_of_hub(error) else 0.0


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
