"""Bytes from a file straight onto a device, with little of them in main memory at any time."""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

__all__ = ["ByteStream"]

_STAGE_BYTES = 2**26


class ByteStream:
    """Reads ranges of files.

    On a GPU two pinned buffers alternate: one is filled while the other is on its way. On a CPU
    the file is read into the tensor itself.
    """

    def __init__(self, device: torch.device) -> None:
        """`device` is where tensors go."""
        self.device = device
        self._files: dict[Path, FileIO] = {}
        self._stages: list[tuple[torch.Tensor, torch.cuda.Event]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files and frees the buffers."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._stages.clear()

    def read(self, path: Path, begin: int, nbytes: int) -> torch.Tensor:
        """Bytes [begin, begin + nbytes) of a file as uint8 [nbytes] on the device.

        Raises:
            OSError: they are not there or cannot be read.
        """
        file = self._open(path)
        if self.device.type == "cuda":
            target = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
            self._read_staged(file, begin, target)
            return target
        target = torch.empty(nbytes, dtype=torch.uint8)
        if nbytes:
            _fill(file, target, begin)
        return target.to(self.device)

    def _open(self, path: Path) -> FileIO:
        if path not in self._files:
            self._files[path] = file = path.open("rb", buffering=0)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return self._files[path]

    def _read_staged(self, file: FileIO, begin: int, target: torch.Tensor) -> None:
        if not self._stages:
            self._stages = [
                (torch.empty(_STAGE_BYTES, dtype=torch.uint8, pin_memory=True), torch.cuda.Event())
                for _ in range(2)
            ]
        stream = torch.cuda.current_stream(self.device)
        for done in range(0, target.numel(), _STAGE_BYTES):
            part = target[done : done + _STAGE_BYTES]
            stage, free = self._stages[0]
            free.synchronize()
            _fill(file, stage[: part.numel()], begin + done)
            part.copy_(stage[: part.numel()], non_blocking=True)
            free.record(stream)
            self._stages.reverse()


def _fill(file: FileIO, target: torch.Tensor, begin: int) -> None:
    """Reads as many bytes as `target`, contiguous in main memory, has."""
    view = memoryview(target.numpy())  # type: ignore[arg-type]
    done = 0
    file.seek(begin)
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise OSError(f"the file ends {len(view) - done} bytes too early")
        done += count
