"""A file as memory: a weight that lies in it as the model wants it needs no copy on a CPU.

Its pages are the page cache's. They are brought in before a load ends, and short of memory the
system drops them instead of ending the program.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import sys
from io import FileIO

import torch

__all__ = ["MappedFile"]

_POPULATE_READ = 22  # madvise(2), Linux 5.14; Python has no name for it yet
_PIECE_BYTES = 2**22  # madvise keeps other threads of Python waiting, so a millisecond at a time


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
