"""The line to an OpenAI-compatible server, by OpenAI's own client. No torch.

Answers are streamed by its asynchronous client, whose reading can be cancelled from any thread and
from signal handlers at any moment, also while nothing comes; the rest by the other one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import openai

from rqchat.engine.foreign import cause_of
from rqchat.engine.proxies import proxy_for, tls_context
from rqchat.engine.remote.address import ServerAddress
from rqchat.engine.remote.server_key import KEY_VARIABLE
from rqchat.errors import RqchatError, UsageError

__all__ = ["Connection", "Interrupted", "ServerError"]

_T = TypeVar("_T")
_CONNECT_S, _SHORT_S = 10.0, 120.0
_SILENCE_S = 3600.0  # a long prompt is read on slow machines; Ctrl-C ends it earlier
_RETRIES = 1
_NO_KEY = "none"  # the client wants one, and servers without a key take any


class Interrupted(RqchatError):
    """`Connection.interrupt` was called."""


class ServerError(RqchatError):
    """The server cannot be reached, refuses, or breaks off.

    Attributes:
        status: HTTP's number; 0 where there was no answer, or one that had begun.
        about: what the server says, where it is an object.
    """

    def __init__(self, message: str, status: int = 0, about: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.status, self.about = status, about or {}


class Connection:
    """A server, and the key for it. Requests may come from several threads, streams from one."""

    def __init__(self, address: ServerAddress, key: str) -> None:
        """Opens nothing yet.

        Raises:
            UsageError: the proxy or the certificates of the environment cannot be used.
        """
        self.address, self._key = address, key
        proxy = proxy_for(address.url)
        tls = tls_context() if address.is_encrypted else False
        # Its own reading of the environment knows fewer forms, and goes round what it cannot use.
        # A redirected question would go to somebody who was not named.
        ways: dict[str, Any] = {"proxy": proxy, "verify": tls, "trust_env": False}
        ways |= {"follow_redirects": False}
        common: dict[str, Any] = {
            "base_url": address.url,
            "api_key": key or _NO_KEY,
            # Or it would send what the environment holds for OpenAI
            "organization": "",
            "project": "",
            "default_headers": {
                "Authorization": f"Bearer {key or _NO_KEY}",
                "OpenAI-Organization": openai.Omit(),
                "OpenAI-Project": openai.Omit(),
            },
            "max_retries": _RETRIES,
        }
        self._short = openai.OpenAI(
            **common,
            timeout=openai.Timeout(_SHORT_S, connect=_CONNECT_S),
            http_client=openai.DefaultHttpxClient(**ways),
        )
        self._long = openai.AsyncOpenAI(
            **common,
            timeout=openai.Timeout(_SILENCE_S, connect=_CONNECT_S),
            http_client=openai.DefaultAsyncHttpxClient(**ways),
        )
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._task: asyncio.Task[Any] | None = None
        self._stop = threading.Event()

    def get(self, path: str) -> Any:
        """What the server has at `path`, below its base URL or a whole URL.

        Raises:
            ServerError: it cannot be had.
        """
        try:
            return self._short.get(path, cast_to=object)
        except Exception as error:
            raise self._translated(error) from None

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What the server answers to `body` at `path`.

        Raises:
            ServerError: it answers nothing, or an error.
        """
        try:
            return self._short.post(path, body=body, cast_to=object)
        except Exception as error:
            raise self._translated(error) from None

    def ready(self) -> None:
        """Forgets an earlier interruption; what is asked next is a new answer."""
        self._stop.clear()

    def interrupt(self) -> None:
        """Ends the running stream. Safe from threads and signal handlers."""
        self._stop.set()
        task = self._task
        if task is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._runner.get_loop().call_soon_threadsafe(task.cancel)

    def stream(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a chat completion, as objects. Closing the generator closes the connection.

        Raises:
            Interrupted: `interrupt` was called since `ready`.
            ServerError: the server refuses, or breaks off.
        """
        whole = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            stream: Any = self._run(self._opened(whole))
        except Exception as error:
            raise self._translated(error) from None
        try:
            while (chunk := self._run(_next(stream))) is not None:
                yield chunk
        except Exception as error:
            raise self._translated(error, has_begun=True) from None
        finally:
            self._runner.run(_closed(stream))

    def close(self) -> None:
        """Ends all that is open."""
        with suppress(Exception):  # nothing is wanted of the line any more, and nobody waits for it
            self._runner.run(self._long.close())
            self._runner.close()
        self._short.close()

    async def _opened(self, body: Mapping[str, Any]) -> Any:
        return await self._long.post(
            "/chat/completions",
            body=body,
            cast_to=object,
            stream=True,
            stream_cls=openai.AsyncStream[object],
        )

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        async def watched() -> _T:
            self._task = asyncio.current_task()
            try:
                if self._stop.is_set():
                    work.close()
                    raise Interrupted
                return await work
            finally:
                self._task = None

        try:
            return self._runner.run(watched())
        except asyncio.CancelledError:
            raise Interrupted from None

    def _translated(self, error: Exception, *, has_begun: bool = False) -> Exception:
        """`error` in our words, without the key."""
        if isinstance(error, RqchatError):
            return error
        host = self.address.host
        if isinstance(error, openai.APIStatusError):
            return self._refusal(error)
        if isinstance(error, openai.APIConnectionError):
            cause = self._without_key(cause_of(error.__cause__ or error))
            if has_begun:
                return ServerError(f"{host} broke off in the middle of its answer: {cause}")
            if isinstance(error, openai.APITimeoutError):
                return ServerError(f"{host} does not answer in time; is it overloaded?")
            return ServerError(
                f"nothing can be reached at {self.address.url}: {cause}; is the server running, and"
                " is that its address?"
            )
        if isinstance(error, openai.APIError):
            about = error.body if isinstance(error.body, Mapping) else {}
            said = self._without_key(cause_of(ValueError(error.message)))
            return ServerError(f"{host} broke off its answer: {said}", about=about)
        cause = self._without_key(cause_of(error))
        return ServerError(f"{host} does not speak as an OpenAI-compatible server does: {cause}")

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        status, host = error.status_code, self.address.host
        about = error.body if isinstance(error.body, Mapping) else {}
        said = self._without_key(cause_of(ValueError(_message(error, about))))
        if status in (401, 403):
            given = "the key that it was given" if self._key else "requests without a key"
            return UsageError(
                f"{host} refuses {given} ({status}: {said}); put its key into {KEY_VARIABLE}, or"
                " into a file of your own for --key-file"
            )
        if 300 <= status < 400:
            to = self._without_key(str(error.response.headers.get("location", "elsewhere")))
            return ServerError(f"{host} redirects to {to}; give that address", status)
        return ServerError(f"{host} answers {status}: {said}", status, about)

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _message(error: openai.APIStatusError, about: Mapping[str, Any]) -> str:
    found = about.get("message") or about.get("detail") or about.get("error") or error.message
    return found if isinstance(found, str) else error.message


async def _next(stream: AsyncIterator[Any]) -> dict[str, Any] | None:
    # No `async for`, which would leave a generator behind for each piece
    try:
        chunk = await stream.__anext__()
    except StopAsyncIteration:
        return None
    if not isinstance(chunk, dict):
        raise ValueError("a piece of the stream is no object")
    return chunk


async def _closed(stream: Any) -> None:
    with suppress(Exception):  # what is said of a connection that is given up helps nobody
        await stream.close()
