"""Bytes from a file straight onto a device, with little of them in main memory at any time."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from rqchat.engine.weights.mapped import MappedFile
from rqchat.engine.weights.ring import BlockRing, fill

__all__ = ["ByteStream"]


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
        """None where the file system cannot map files."""
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
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return self._files[path]
