"""What a URL holds, bounded in bytes and in time. No torch.

Only http and https, also where a server redirects to: a URL never reads a local file. Proxies and
certificates are those of the environment.
"""

from __future__ import annotations

import queue
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

from rqchat import __version__
from rqchat.engine.proxies import ProxyHandler, tls_context
from rqchat.errors import InputError, RqchatError

__all__ = ["DEADLINE_S", "Download", "download"]

DEADLINE_S = 60.0
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Download:
    """What came from a URL.

    Attributes:
        name: the URL as it was given.
        data: the body.
        media_type: such as `text/html`, in lower case; empty where the server does not say.
        charset: the encoding that the server names, or None.
    """

    name: str
    data: bytes
    media_type: str
    charset: str | None


def download(url: str, *, max_bytes: int, deadline_s: float = DEADLINE_S) -> Download:
    """Fetches `url`.

    The work is done in a thread, because looking up a name and reading headers know no deadline.

    Raises:
        InputError: no such place, an error of the server, too large, too slow, not http(s).
        UsageError: the proxy or the certificates that the environment names cannot be used.
    """
    results: queue.SimpleQueue[Download | RqchatError] = queue.SimpleQueue()
    ends_s = time.monotonic() + deadline_s

    def work() -> None:
        try:
            results.put(_fetch(url, max_bytes, ends_s))
        except RqchatError as error:
            results.put(error)
        except Exception as error:  # nobody else would hear of it: this is a thread
            reason = getattr(error, "reason", None) or error
            reason = getattr(reason, "strerror", None) or reason
            results.put(InputError(f"{url} cannot be fetched: {reason or type(error).__name__}"))

    threading.Thread(target=work, name="rqchat-download", daemon=True).start()
    try:
        result = results.get(timeout=deadline_s)
    except queue.Empty:
        raise _too_slow(url) from None
    if isinstance(result, RqchatError):
        raise result
    return result


def _fetch(url: str, max_bytes: int, ends_s: float) -> Download:
    request = urllib.request.Request(
        url, headers={"User-Agent": f"rqchat/{__version__}", "Accept": "*/*"}
    )
    try:
        with _opener().open(request, timeout=max(0.1, ends_s - time.monotonic())) as response:
            return Download(
                url,
                _body(response, url, max_bytes, ends_s),
                # Without the header the method says text/plain.
                response.headers.get_content_type() if "content-type" in response.headers else "",
                response.headers.get_content_charset(),
            )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _REDIRECTS:
            raise InputError(
                f"{url} redirects in a circle, more than {_MAX_REDIRECTS} times, or to what is no"
                " http(s) address; take the address that a browser ends at"
            ) from None
        raise InputError(
            f"{url} cannot be fetched: the server answers {error.code} {error.reason}"
        ) from None
    except TimeoutError:
        raise _too_slow(url) from None
    except HTTPException as error:
        raise InputError(
            f"{url} cannot be fetched: the server does not speak HTTP ({type(error).__name__})"
        ) from None


def _body(response: HTTPResponse, url: str, max_bytes: int, ends_s: float) -> bytes:
    announced = response.length or 0  # what the server says; unknown in chunks
    if announced > max_bytes:
        raise _too_large(url, max_bytes)
    data = bytearray()
    # Not `read`, which waits for a whole piece and so past the deadline.
    while piece := response.read1(_PIECE_BYTES):
        data += piece
        if len(data) > max_bytes:
            raise _too_large(url, max_bytes)
        if time.monotonic() > ends_s:
            raise _too_slow(url)
    if len(data) < announced:  # urllib takes that for the end
        raise InputError(f"{url} broke off after {len(data):,} of {announced:,} bytes; try again")
    return bytes(data)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects; the base class goes to no other scheme than http, https and ftp."""

    max_redirections = _MAX_REDIRECTS


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers for file, ftp and data URLs that urllib adds by itself."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=tls_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _too_large(url: str, max_bytes: int) -> InputError:
    return InputError(
        f"{url} has more than {max_bytes / 1e6:.0f} MB, which is the limit; make it smaller first"
    )


def _too_slow(url: str) -> InputError:
    return InputError(f"{url} did not arrive in time; download it first and give the file")
