"""Answers wait here for the one model, in the order in which they came.

One thread owns the session, because a session is not to be shared; readers get its events through
queues of their event loop. What waits is bounded in number and bytes, so that memory is.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rqchat.engine.session import ChatSession
from rqchat.errors import RqchatError

__all__ = ["MOST_WAITING", "BusyError", "Job", "WorkQueue"]

MOST_WAITING = 256
_MOST_WAITING_BYTES = 256 * 2**20
_END = object()
Work = Callable[[ChatSession], Iterator[Any]]


class BusyError(RqchatError):
    """So many requests wait already that another one would have to wait too long."""


@dataclass(eq=False)
class Job:
    """One piece of work, and what it gives: read by one reader.

    Attributes:
        work: gives events; runs in the thread of the queue.
        size_bytes: of the request.
    """

    work: Work
    size_bytes: int = 0
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    given: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    is_cancelled: bool = False

    async def events(self) -> Any:
        """Everything the work gives, as it comes.

        Raises:
            BaseException: whatever the work raised.
        """
        while (event := await self.given.get()) is not _END:
            if isinstance(event, BaseException):
                raise event
            yield event

    def put(self, event: Any) -> None:
        """From the queue's thread: hands over an event, unless the loop has ended."""
        try:
            self.loop.call_soon_threadsafe(self.given.put_nowait, event)
        except RuntimeError:
            self.is_cancelled = True


class WorkQueue:
    """Runs jobs one after another in a thread of its own.

    Attributes:
        latest_s: when a job was there last, by `time.monotonic`.
        begun: jobs whose turn has come so far.
    """

    def __init__(self, session: ChatSession) -> None:
        self._session = session
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        self.latest_s, self.begun = time.monotonic(), 0
        self._thread = threading.Thread(target=self._run, name="rqchat-answers", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._running is not None or bool(self._waiting)

    def submit(self, job: Job) -> int:
        """Lets `job` wait for its turn; how many stand before it.

        Raises:
            BusyError: too many wait.
        """
        with self._changed:
            held = sum(each.size_bytes for each in self._waiting)
            if self._is_closed:
                raise BusyError("the server is being stopped")
            if len(self._waiting) >= MOST_WAITING or held + job.size_bytes > _MOST_WAITING_BYTES:
                raise BusyError(
                    f"{len(self._waiting)} requests wait already ({held / 2**20:.0f} MiB); ask"
                    " again later"
                )
            before = len(self._waiting) + (self._running is not None)
            self._waiting.append(job)
            self._changed.notify_all()
        return before

    def cancel(self, job: Job) -> None:
        """Its reader has gone: it is not begun, or ends after the step that runs."""
        with self._changed:
            job.is_cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
            elif job is self._running:
                self._session.interrupt()

    def close(self) -> None:
        """Ends the running job and keeps what was read; jobs that wait fail."""
        with self._changed:
            self._is_closed = True
            left = list(self._waiting)
            self._waiting.clear()
            if self._running is not None:
                self._running.is_cancelled = True
                self._session.interrupt()
            self._changed.notify_all()
        for job in left:
            job.put(BusyError("the server is being stopped"))
        self._thread.join()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._do(job)
            # The thread must outlive every error of a job: its reader gets it
            except BaseException as error:
                job.put(error)
            finally:
                job.put(_END)
                with self._changed:
                    self._running = None
                self.latest_s = time.monotonic()
        self._session.close()

    def _next(self) -> Job | None:
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            self._running = self._waiting.popleft() if self._waiting else None
            self.begun += self._running is not None
            self.latest_s = time.monotonic()
            return self._running

    def _do(self, job: Job) -> None:
        for event in job.work(self._session):
            job.put(event)
            # Also where the reader went before the session had begun, which forgets interruptions
            if job.is_cancelled:
                self._session.interrupt()
