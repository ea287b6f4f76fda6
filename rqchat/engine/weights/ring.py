"""Bytes of files through a few buffers onto a device, read ahead by threads.

A file is read in blocks. Whoever asks for bytes gets them from the blocks that hold them, while
threads read the next ones: a single thread copies out of the page cache more slowly than a link
takes bytes, and a single request at a time leaves a fast disk idle. Checkpoints keep packed weights
and their scales far apart, so the ring follows two places of a file at once; the block that was
asked for longest ago makes room.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import torch

__all__ = ["BlockRing", "fill"]

_BLOCK_BYTES = 2**22  # all of them stay in a cache between thread and link
_BLOCKS = 8
_AHEAD = 3  # blocks behind the one that is asked for, so two places of a file fit
_READERS = 4


@dataclass(slots=True)
class _Stage:
    """A buffer; when the device is done with what it held, and how many bytes it will hold."""

    room: torch.Tensor
    sent: torch.cuda.Event | None
    filled: Future[int] = field(default_factory=Future)


class BlockRing:
    """The blocks that are read or being read, pinned where the device is CUDA's."""

    def __init__(self, device: torch.device, block_bytes: int = _BLOCK_BYTES) -> None:
        """`device` is where tensors go."""
        self._device, self._block_bytes = device, block_bytes
        pinned = device.type == "cuda"
        self._free = [
            _Stage(
                torch.empty(block_bytes, dtype=torch.uint8, pin_memory=pinned),
                torch.cuda.Event() if pinned else None,
            )
            for _ in range(_BLOCKS)
        ]
        self._held: dict[tuple[Path, int], _Stage] = {}  # the first one is the next to make room
        self._readers = ThreadPoolExecutor(_READERS, "weights")

    def close(self) -> None:
        """Ends the threads, as soon as they have read the blocks that they are at."""
        self._readers.shutdown(cancel_futures=True)
        self._held.clear()
        self._free.clear()

    def read(self, path: Path, begin: int, target: torch.Tensor) -> None:
        """Copies bytes from `begin` on into `target`, uint8 [n] on the device, in its stream.

        Raises:
            OSError: they are not there or cannot be read.
        """
        end, size = begin + target.numel(), path.stat().st_size
        if end > size:
            raise OSError(f"the file ends {end - size} bytes too early")
        done = begin
        while done < end:
            index, skip = divmod(done, self._block_bytes)
            count = min(self._block_bytes - skip, end - done)
            stage = self._block(path, index, size)
            if stage.filled.result() < skip + count:
                raise OSError("the file was cut off meanwhile")
            self._send(stage, skip, target[done - begin : done - begin + count])
            done += count
            if skip + count == self._block_bytes:
                self._free.append(self._held.pop((path, index)))

    def _send(self, stage: _Stage, skip: int, part: torch.Tensor) -> None:
        part.copy_(stage.room[skip : skip + part.numel()], non_blocking=stage.sent is not None)
        if stage.sent is not None:
            stage.sent.record(torch.cuda.current_stream(self._device))

    def _block(self, path: Path, index: int, size: int) -> _Stage:
        """The block, read or on its way, with the next ones on theirs."""
        last = min(index + _AHEAD, (size - 1) // self._block_bytes)
        wanted = [(path, place) for place in range(index, last + 1)]
        known = [key for key in wanted if key in self._held]
        self._held |= {key: self._held.pop(key) for key in reversed(known)}
        for key in wanted:
            if key not in self._held:
                self._held[key] = self._begin(*key)
        return self._held[path, index]

    def _begin(self, path: Path, index: int) -> _Stage:
        stage = self._free.pop(0) if self._free else self._held.pop(next(iter(self._held)))
        if not stage.filled.cancel():
            stage.filled.exception()  # nobody asked for it, but a thread is at it
        stage.filled = self._readers.submit(self._fill, stage, path, index * self._block_bytes)
        return stage

    def _fill(self, stage: _Stage, path: Path, begin: int) -> int:
        if stage.sent is not None:
            stage.sent.synchronize()
        with path.open("rb", buffering=0) as file:
            return fill(file, begin, stage.room)


def fill(file: FileIO, begin: int, room: torch.Tensor) -> int:
    """Reads as many bytes as `room`, contiguous in main memory, has; returns how many there are."""
    view = memoryview(room.numpy())  # type: ignore[arg-type]
    file.seek(begin)
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):
        done += count
    return done
