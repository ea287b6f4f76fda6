"""One file over several connections: parts are fetched ahead of the one that is read. No torch.

One connection seldom fills a line: each begins slowly, and storages bound what one gets. What comes
is handed over in order, so that the file on the disk has no holes, whenever the process ends.
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
from collections import deque
from collections.abc import Generator
from contextlib import closing
from queue import Full, Queue

from rqchat.engine.model_files.http_range import open_range, pause_s
from rqchat.errors import RqchatError

__all__ = ["PART_BYTES", "NoRangesError", "read_parts"]

PART_BYTES = 2**25
_CONNECTIONS = 6  # what waits for its turn takes memory: 192 MiB at most
_PIECE_BYTES = 2**20
_ATTEMPTS = 5  # cuts in a row without a byte in between
_LOOK_S = 1.0  # how long a thread that nobody reads stays


class NoRangesError(RqchatError):
    """The server sends files from their beginning alone."""


def read_parts(url: str, begin: int, size_bytes: int, *, is_whole: bool) -> Generator[bytes]:
    """The bytes of `url` from `begin` up to `size_bytes`, in order; taken up again after cuts.

    Args:
        is_whole: take one connection for all of it.

    Raises:
        NoRangesError: they cannot be had but from the beginning.
        urllib.error.HTTPError, OSError, http.client.HTTPException: not to be had, after some tries.
        UsageError: the proxy or the certificates that the environment names cannot be used.
    """
    step = size_bytes if is_whole else PART_BYTES
    begins = iter(range(begin, size_bytes, step))
    parts: deque[_Part] = deque()
    try:
        while True:
            while len(parts) < _CONNECTIONS and (start := next(begins, None)) is not None:
                parts.append(_Part(url, start, min(start + step, size_bytes), size_bytes))
            if not parts:
                return
            piece = parts[0].pieces.get()
            if isinstance(piece, BaseException):
                raise piece
            if piece:
                yield piece
            else:
                parts.popleft()
    finally:
        for part in parts:
            part.is_wanted = False


class _Part:
    """Bytes `begin` to `end` of a file, which a thread of its own fetches.

    Attributes:
        pieces: what came, in order; then nothing (b"") or what went wrong.
        is_wanted: cleared where nobody reads on.
    """

    def __init__(self, url: str, begin: int, end: int, size_bytes: int) -> None:
        # Bounded, as one connection may bring a whole file faster than a disk takes it
        self.pieces: Queue[bytes | BaseException] = Queue(PART_BYTES // _PIECE_BYTES)
        self.is_wanted = True
        self._url, self._next, self._end = url, begin, end
        self._asked_end = end if end < size_bytes else None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._fetch()
            self._hand_over(b"")
        except BaseException as error:  # raised where it is read
            self._hand_over(error)

    def _hand_over(self, piece: bytes | BaseException) -> None:
        while self.is_wanted:
            try:
                self.pieces.put(piece, timeout=_LOOK_S)
            except Full:
                continue
            return

    def _fetch(self) -> None:
        tries = 0
        while self._next < self._end and self.is_wanted:
            had, pause = self._next, 0.0
            failure: Exception = http.client.IncompleteRead(b"", self._end - had)
            try:
                self._stream()
            except urllib.error.HTTPError as error:
                error.close()
                wait_s = pause_s(error)
                if wait_s is None:
                    raise
                failure, pause = error, wait_s
            except (OSError, http.client.HTTPException) as error:
                failure = error
            tries = 0 if self._next > had else tries + 1
            if tries == _ATTEMPTS:
                raise failure
            time.sleep(max(pause, min(2.0**tries / 8, 4.0) if tries else 0.0))

    def _stream(self) -> None:
        with closing(open_range(self._url, self._next, self._asked_end)) as response:
            if self._next and response.status != http.client.PARTIAL_CONTENT:
                raise NoRangesError
            while self.is_wanted and self._next < self._end:
                piece = response.read(min(_PIECE_BYTES, self._end - self._next))
                if not piece:
                    return
                self._next += len(piece)
                self._hand_over(piece)
