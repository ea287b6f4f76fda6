"""Bytes from a file straight onto a device, with little of them in main memory at any time."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Self

import torch

__all__ = ["BlockRing", "ByteStream", "MappedFile", "fill"]

_BLOCK_BYTES = 2**22  # all of them stay in a cache between thread and link
_BLOCKS = 8
_AHEAD = 3  # blocks behind the one that is asked for, so two places of a file fit
_READERS = 4
_POPULATE_READ = 22  # madvise(2), Linux 5.14; Python has no name for it yet
_PIECE_BYTES = 2**22  # madvise keeps other threads of Python waiting, so a millisecond at a time


@dataclass(slots=True)
class _Block:
    """A buffer in main memory for one block of a file.

    Attributes:
        buffer: [block_bytes] uint8.
        copied: when the last copy out of it is over; None where copies do not overlap with reads.
        filled: how many bytes a reader has put into it.
    """

    buffer: torch.Tensor
    copied: torch.cuda.Event | None
    filled: Future[int] = field(default_factory=Future)


class BlockRing:
    """The blocks that are read or being read, pinned where the device is CUDA's."""

    def __init__(self, device: torch.device, block_bytes: int = _BLOCK_BYTES) -> None:
        """`device` is where tensors go."""
        self._device, self._block_bytes = device, block_bytes
        pinned = device.type == "cuda"
        self._free = [
            _Block(
                torch.empty(block_bytes, dtype=torch.uint8, pin_memory=pinned),
                torch.cuda.Event() if pinned else None,
            )
            for _ in range(_BLOCKS)
        ]
        # By file and number, the next one to be given up first
        self._blocks: dict[tuple[Path, int], _Block] = {}
        self._readers = ThreadPoolExecutor(_READERS, "weights")

    def close(self) -> None:
        """Ends the threads, as soon as they have read the blocks that they are at."""
        self._readers.shutdown(cancel_futures=True)
        self._blocks.clear()
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
            block = self._block(path, index, size)
            if block.filled.result() < skip + count:
                raise OSError("the file was cut off meanwhile")
            self._copy_out(block, skip, target[done - begin : done - begin + count])
            done += count
            # Read to its end: tensors are taken in order, so nobody asks for it again.
            if skip + count == self._block_bytes:
                self._free.append(self._blocks.pop((path, index)))

    def _copy_out(self, block: _Block, skip: int, part: torch.Tensor) -> None:
        part.copy_(block.buffer[skip : skip + part.numel()], non_blocking=block.copied is not None)
        if block.copied is not None:
            block.copied.record(torch.cuda.current_stream(self._device))

    def _block(self, path: Path, index: int, size: int) -> _Block:
        """The block, read or on its way, with the next ones on theirs."""
        last = min(index + _AHEAD, (size - 1) // self._block_bytes)
        wanted = [(path, place) for place in range(index, last + 1)]
        known = [key for key in wanted if key in self._blocks]
        # To the end, the one asked for last of all: the first of the dict is given up first.
        self._blocks |= {key: self._blocks.pop(key) for key in reversed(known)}
        for key in wanted:
            if key not in self._blocks:
                self._blocks[key] = self._begin(*key)
        return self._blocks[path, index]

    def _begin(self, path: Path, index: int) -> _Block:
        block = self._free.pop(0) if self._free else self._blocks.pop(next(iter(self._blocks)))
        if not block.filled.cancel():
            block.filled.exception()  # nobody asked for it, but a thread is at it
        block.filled = self._readers.submit(self._fill, block, path, index * self._block_bytes)
        return block

    def _fill(self, block: _Block, path: Path, begin: int) -> int:
        # The device may still be copying out of the buffer.
        if block.copied is not None:
            block.copied.synchronize()
        with path.open("rb", buffering=0) as file:
            return fill(file, begin, block.buffer)


def fill(file: FileIO, begin: int, buffer: torch.Tensor) -> int:
    """Reads bytes from `begin` on into `buffer`, uint8 [n]; returns how many of the n there are."""
    view = memoryview(buffer.numpy())  # type: ignore[arg-type]
    file.seek(begin)
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):
        done += count
    return done


class MappedFile:
    """Ranges of a file as tensors. The mapping lasts as long as any of them."""

    def __init__(self, file: FileIO) -> None:
        """Maps `file`, which may be closed then.

        Raises:
            OSError, ValueError: it cannot be mapped.
        """
        # Torch warns of memory that cannot be written; what is written here stays in this process
        self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # a kernel without huge pages
                # Reads ahead by 2 MB at least, whatever is set for the disk (mm/filemap.c), and
                # maps that much at a time
                self._pages.madvise(mmap.MADV_HUGEPAGE)

    def tensor(self, begin: int, nbytes: int) -> torch.Tensor:
        """Bytes [begin, begin + nbytes), one at least, as uint8 [nbytes], all in main memory.

        Raises:
            OSError: they are not there or cannot be read.
        """
        end = begin + nbytes
        if end > len(self._pages):
            raise OSError(f"the file ends {end - len(self._pages)} bytes too early")
        for piece in range(begin, end, _PIECE_BYTES):
            self._bring(piece, min(piece + _PIECE_BYTES, end))
        return torch.frombuffer(self._pages, dtype=torch.uint8, count=nbytes, offset=begin)

    def _bring(self, begin: int, end: int) -> None:
        """Makes the pages that hold these bytes resident."""
        page = begin - begin % mmap.PAGESIZE
        if sys.platform == "linux":
            try:
                self._pages.madvise(_POPULATE_READ, page, end - page)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise OSError("the file was cut off meanwhile, or its disk fails") from None
        bytes(memoryview(self._pages)[page : end : mmap.PAGESIZE])  # an older system: touches each


class ByteStream:
    """Reads ranges of files: on a GPU through a ring of buffers, on a CPU without a copy if it can.

    A range that is kept lies on a CPU in the file itself (`MappedFile`). What is only read to be
    converted is not mapped, or both forms would stay resident.
    """

    def __init__(self, device: torch.device, ring: BlockRing | None = None) -> None:
        """`device` is where tensors go; through `ring`, or one made at the first read of a GPU."""
        self.device = device
        self._ring = ring
        self._files: dict[Path, FileIO] = {}
        self._maps: dict[Path, MappedFile | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the reading, closes the files and frees the buffers; tensors stay."""
        if self._ring is not None:
            self._ring.close()
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._maps.clear()

    def read(self, path: Path, begin: int, nbytes: int, *, keep: bool) -> torch.Tensor:
        """Bytes [begin, begin + nbytes) of a file as uint8 [nbytes] on the device.

        Args:
            path: the file.
            begin: the first byte.
            nbytes: how many, maybe none.
            keep: whether they are to be a weight as they are.

        Raises:
            OSError: they are not there or cannot be read.
        """
        if self.device.type == "cpu" and self._ring is None:
            mapped = self._map(path) if keep and nbytes else None
            return mapped.tensor(begin, nbytes) if mapped else self._copy(path, begin, nbytes)
        self._ring = self._ring or BlockRing(self.device)
        target = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        self._ring.read(path, begin, target)
        return target

    def _map(self, path: Path) -> MappedFile | None:
        """The file's mapping; None where its file system cannot map files."""
        if path not in self._maps:
            try:
                self._maps[path] = MappedFile(self._open(path))
            except (OSError, ValueError):
                self._maps[path] = None
        return self._maps[path]

    def _copy(self, path: Path, begin: int, nbytes: int) -> torch.Tensor:
        target = torch.empty(nbytes, dtype=torch.uint8)
        if missing := nbytes - fill(self._open(path), begin, target):
            raise OSError(f"the file ends {missing} bytes too early")
        return target

    def _open(self, path: Path) -> FileIO:
        if path not in self._files:
            self._files[path] = file = path.open("rb", buffering=0)
            # Linux then reads twice as far ahead.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return self._files[path]
