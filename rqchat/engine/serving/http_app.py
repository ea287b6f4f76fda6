"""The HTTP application: routes, and how an answer travels from the queue to its reader."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from rqchat.engine.serving.access_control import Access, read_body
from rqchat.engine.serving.answering import Ending, answer_events, count_tokens
from rqchat.engine.serving.anthropic_messages import MessagesReply, read_messages_request
from rqchat.engine.serving.chat_completions import ChatReply, read_chat_request
from rqchat.engine.serving.given_request import AnswerRequest, field
from rqchat.engine.serving.http_errors import HttpError, Style, error_body, status_of
from rqchat.engine.serving.metrics import Metrics
from rqchat.engine.serving.received_answer import ReceivedAnswer, Reply
from rqchat.engine.serving.work_queue import Job, WorkQueue
from rqchat.engine.session_api import Session
from rqchat.errors import RqchatError

__all__ = ["Server", "make_app"]

Endpoint = Callable[[Request], Awaitable[Response]]


class Server:
    """What the routes share."""

    def __init__(
        self, session: Session, queue: WorkQueue, access: Access, *, thinks: bool = False
    ) -> None:
        """`session` is only asked for what does not change; `queue` alone lets it answer."""
        self.queue, self.access, self.thinks = queue, access, thinks
        self.model, self.context_tokens = session.model_name, session.context_tokens
        self.started, self.metrics = int(time.time()), Metrics()

    async def answer(
        self,
        request: Request,
        asked: AnswerRequest,
        reply: Reply,
        size: int,
        style: Style,
        *,
        streams: bool,
    ) -> Response:
        """The response to a request whose fields have been read.

        Raises:
            RqchatError: the answer failed before any of it was sent.
        """
        job = Job(lambda session: self._counted(answer_events(session, asked)), size)
        self.queue.submit(job)
        events = job.events()
        # Until the first event nothing is sent, so that a refusal has a status of its own
        try:
            first = await _while_connected(request, anext(events))
            if streams:
                return StreamingResponse(
                    self._stream(job, first, events, reply, style),
                    media_type="text/event-stream",
                    headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
                )
            answer = await _while_connected(request, _collected(first, events))
            return JSONResponse(reply.whole(answer))
        except BaseException:
            self.queue.cancel(job)
            raise

    def _counted(self, events: Iterator[Any]) -> Iterator[Any]:
        for event in events:
            if isinstance(event, Ending):
                self.metrics.add(event)
            yield event

    async def count(self, request: Request, asked: AnswerRequest, size: int) -> int:
        """Tokens of a prompt, counted when its turn comes.

        Raises:
            RqchatError: it cannot be written.
        """
        job = Job(lambda session: count_tokens(session, asked), size)
        self.queue.submit(job)
        try:
            found: int = await _while_connected(request, anext(job.events()))
        finally:
            self.queue.cancel(job)
        return found

    async def _stream(
        self, job: Job, first: Any, events: Any, reply: Reply, style: Style
    ) -> AsyncIterator[str]:
        try:
            for piece in reply.begin():
                yield piece
            async with aclosing(events):
                async for event in _chained(first, events):
                    for piece in reply.pieces(event):
                        yield piece
        except RqchatError as error:
            yield reply.failure(error_body(error, style))
        finally:
            # Also where the reader has gone; a job that is over is not touched by it
            self.queue.cancel(job)


async def _chained(first: Any, events: Any) -> AsyncIterator[Any]:
    yield first
    async for event in events:
        yield event


async def _collected(first: Any, events: Any) -> ReceivedAnswer:
    answer = ReceivedAnswer()
    async for event in _chained(first, events):
        answer.add(event)
    return answer


class _GoneError(RqchatError):
    """The client has closed its connection."""


async def _while_connected(request: Request, work: Awaitable[Any]) -> Any:
    """What `work` gives, unless the client goes before.

    Raises:
        _GoneError: it went.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _GoneError("the client has gone")
    finally:
        for each in (task, watcher):
            each.cancel()
            with suppress(asyncio.CancelledError, RqchatError, StopAsyncIteration):
                await each


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _guarded(server: Server, endpoint: Endpoint, style: Style) -> Endpoint:
    """`endpoint`, for those who may ask, with errors in the words of a protocol."""

    @functools.wraps(endpoint)
    async def guarded(request: Request) -> Response:
        try:
            server.access.check(request)
            return await endpoint(request)
        except _GoneError:
            return Response(status_code=499)  # nobody reads it; nginx's status for logs
        except RqchatError as error:
            headers = {"Retry-After": "5"} if status_of(error) == 503 else None
            return JSONResponse(error_body(error, style), status_of(error), headers)

    return guarded


async def _messages(server: Server, request: Request) -> Response:
    body, size = await read_body(request)
    asked = read_messages_request(body, thinks=server.thinks)
    streams = field(body, "stream", bool, False)
    reply = MessagesReply(server.model)
    return await server.answer(request, asked, reply, size, "anthropic", streams=streams)


async def _count_tokens(server: Server, request: Request) -> Response:
    body, size = await read_body(request)
    asked = read_messages_request(body, thinks=server.thinks)
    return JSONResponse({"input_tokens": await server.count(request, asked, size)})


async def _chat(server: Server, request: Request) -> Response:
    body, size = await read_body(request)
    asked = read_chat_request(body, thinks=server.thinks)
    streams = field(body, "stream", bool, False)
    reply = ChatReply(body, server.model)
    return await server.answer(request, asked, reply, size, "openai", streams=streams)


def _model_record(server: Server) -> dict[str, Any]:
    """In the fields of vLLM (`max_model_len`) and llama.cpp (`meta`, `architecture`)."""
    return {
        "id": server.model,
        "object": "model",
        "created": server.started,
        "owned_by": "rqchat",
        "max_model_len": server.context_tokens,
        "meta": {"n_ctx": server.context_tokens},
        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
    }


async def _models(server: Server, request: Request) -> Response:
    del request
    return JSONResponse({"object": "list", "data": [_model_record(server)]})


async def _model(server: Server, request: Request) -> Response:
    if request.path_params["name"] != server.model:
        raise HttpError(404, f"the one model here is {server.model}")
    return JSONResponse(_model_record(server))


async def _metrics(server: Server, request: Request) -> Response:
    del request
    waiting = server.queue.waiting
    text = server.metrics.text(waiting=waiting, context_tokens=server.context_tokens)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _health(server: Server, request: Request) -> Response:
    """Open to everybody, as load balancers want it; says nothing but that it lives."""
    del server, request
    return JSONResponse({"status": "ok"})


def make_app(server: Server) -> Starlette:
    """The application over a server."""

    def route(path: str, handler: Any, *methods: str, style: Style = "openai") -> Route:
        endpoint = _guarded(server, functools.partial(handler, server), style)
        return Route(path, endpoint, methods=list(methods) or ["GET"])

    routes = [
        route("/v1/chat/completions", _chat, "POST"),
        route("/v1/messages", _messages, "POST", style="anthropic"),
        route("/v1/messages/count_tokens", _count_tokens, "POST", style="anthropic"),
        route("/v1/models", _models),
        route("/v1/models/{name:path}", _model),
        route("/metrics", _metrics),
        Route("/health", functools.partial(_health, server)),
    ]
    return Starlette(
        routes=routes, exception_handlers={HTTPException: _refused, Exception: _failed}
    )


async def _refused(request: Request, error: Exception) -> Response:
    """An address that is not served, or not in this way."""
    del request
    assert isinstance(error, HTTPException)
    said = HttpError(error.status_code, f"{error.detail}: see docs/serve.md for what is served")
    return JSONResponse(error_body(said, "openai"), error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    del request
    return JSONResponse(error_body(error, "openai"), 500)
