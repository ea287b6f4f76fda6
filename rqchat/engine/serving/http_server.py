"""Runs the application with uvicorn until it is stopped, or nobody has asked for a while."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from rqchat.engine.serving.access_control import Access, is_loopback
from rqchat.engine.serving.http_app import Server, make_app
from rqchat.engine.serving.work_queue import WorkQueue
from rqchat.engine.session import ChatSession
from rqchat.errors import RqchatError, UsageError

__all__ = ["HttpServer", "ServeSettings", "open_port"]

_LOOK_EVERY_S = 0.5
_WAITING_CONNECTIONS = 512
_GOODBYE_S = 2


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where a server listens and for how long.

    Attributes:
        host, port: the address; port 0 takes a free one.
        api_key: what clients have to send; empty for none.
        idle_s: seconds without a request after which it ends; None never does.
        thinks: whether the model thinks first where a request does not say.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str = ""
    idle_s: float | None = None
    thinks: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.api_key:
            raise UsageError(
                f"--host {self.host} lets other machines ask; that needs a key: --api-key-file"
                " FILE, or RQCHAT_API_KEY"
            )


def open_port(settings: ServeSettings) -> socket.socket:
    """The socket to listen at, so that a port that is taken is known before a model is loaded.

    Raises:
        RqchatError: it cannot be had.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(_WAITING_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise RqchatError(
            f"{settings.host}:{settings.port} cannot be listened at: {error}; take another --port"
        ) from None
    return listening


class HttpServer:
    """One model behind sockets."""

    def __init__(
        self, session: ChatSession, sockets: list[socket.socket], settings: ServeSettings
    ) -> None:
        self._sockets, self._settings = sockets, settings
        self._queue = WorkQueue(session)
        access = Access(settings.api_key, is_open=not is_loopback(settings.host))
        app = make_app(Server(session, self._queue, access, thinks=settings.thinks))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_GOODBYE_S,
            server_header=False,
        )
        self._http = uvicorn.Server(config)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Answers until SIGINT or SIGTERM, until `stop`, or until nobody has asked for `idle_s`."""
        try:
            asyncio.run(self._run(on_ready))
        # uvicorn raises the signal that ended it again
        except KeyboardInterrupt:
            return
        finally:
            self._queue.close()

    def stop(self) -> None:
        """Ends `run`, which another thread is in; answers that run end with what came."""
        self._http.should_exit = True

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._queue.waiting

    @property
    def answered(self) -> int:
        """Requests whose turn has come so far."""
        return self._queue.begun

    async def _run(self, on_ready: Callable[[], None]) -> None:
        serving = asyncio.ensure_future(self._http.serve(self._sockets))
        while not self._http.started and not serving.done():
            await asyncio.sleep(0.01)
        on_ready()
        while not serving.done():
            if self._is_idle():
                self.stop()
            await asyncio.wait((serving,), timeout=_LOOK_EVERY_S)
        await serving

    def _is_idle(self) -> bool:
        idle_s = self._settings.idle_s
        if idle_s is None or self._queue.is_busy:
            return False
        return time.monotonic() - self._queue.latest_s > idle_s
