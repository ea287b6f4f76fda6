"""Where a server is, and which of its models is meant: `http://host:8000/v1#google/gemma-4-31B-it`.

The part behind `#` is ours: it is how saved conversations name a model at a server.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from rqchat.engine.foreign import border
from rqchat.errors import UsageError

__all__ = ["ServerAddress", "is_address", "parse_address", "shown_model"]

_EXAMPLE = "write such as http://localhost:8000/v1"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """An OpenAI-compatible server.

    Attributes:
        url: its base URL without a slash at the end, such as `http://localhost:8000/v1`.
        model: one of its models; empty where none is named.
    """

    url: str
    model: str = ""

    @property
    def root(self) -> str:
        """The URL without the `/v1`, where servers have what is not OpenAI's."""
        return self.url.removesuffix("/v1")

    @property
    def host(self) -> str:
        """Name and port, for people."""
        return urlsplit(self.url).netloc

    @property
    def is_loopback(self) -> bool:
        """Whether the server runs on this machine."""
        name = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody between here and the server can read along."""
        return self.url.startswith("https:")

    def named(self, model: str) -> str:
        """What a saved conversation calls `model` of this server."""
        return f"{self.url}#{model}"


def is_address(model: str) -> bool:
    """Whether what stands for a model is a server's address."""
    return model.lower().startswith(("http://", "https://"))


def parse_address(text: str, *, name: str = "--server") -> ServerAddress:
    """The address that `text` is; `name` is what errors call it. `/v1` is added where no path is.

    Raises:
        UsageError: it is none, or holds a password, which `ps` would show.
    """
    given = text.strip()
    if "://" not in given:
        given = f"http://{given}"
    with border(lambda cause: UsageError(f"{name} is no address ({cause}); {_EXAMPLE}")):
        parts = urlsplit(given)
        host, port, user = parts.hostname, parts.port, parts.username
        secret = user is not None or parts.password is not None
    if secret:
        raise UsageError(
            f"{name} holds a name or password, which 'ps' and saved conversations would show; put"
            " the key into RQCHAT_API_KEY, or into a file for --key-file"
        )
    if parts.scheme.lower() not in ("http", "https") or not host or any(c.isspace() for c in given):
        raise UsageError(f"{name} is {text!r}, which is no http(s) address; {_EXAMPLE}")
    if parts.query:
        raise UsageError(f"{name} is {text!r}; an address ends before its '?'; {_EXAMPLE}")
    shown_host = f"[{host}]" if ":" in host else host
    where = shown_host + (f":{port}" if port else "")
    path = parts.path.rstrip("/") or "/v1"
    return ServerAddress(f"{parts.scheme.lower()}://{where}{path}", parts.fragment)


def shown_model(name: str) -> str:
    """`google/gemma-4-31B-it` of its name at a server; other names as they are."""
    return name.partition("#")[2] or name if is_address(name) else name
