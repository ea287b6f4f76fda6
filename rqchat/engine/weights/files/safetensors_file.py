"""The safetensors files of a folder: what they hold, checked against their sizes before a load.

Format: 8 bytes with the length of a JSON header, the header, the tensors' bytes
(github.com/huggingface/safetensors). No code is ever run and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rqchat.engine.weights.grid import matrix_of
from rqchat.engine.weights.transfer import ByteStream
from rqchat.errors import ModelError

__all__ = ["StoredTensor", "check_sums", "read_headers"]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SUMS = "SHA256SUMS"
# The limit of the safetensors library itself.
_HEADER_LIMIT = 100_000_000
_PIECE_BYTES = 2**24
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `nbytes` from `begin` in the file at `path`."""

    path: Path
    begin: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self, stream: ByteStream, *, keep: bool = True) -> torch.Tensor:
        """The tensor as it is stored, on the stream's device, to be kept or to be converted."""
        # Nothing in the format aligns a tensor, although every writer does
        keep &= self.begin % self.dtype.itemsize == 0
        raw = stream.read(self.path, self.begin, self.nbytes, keep=keep)
        return raw.view(self.dtype).view(self.shape)

    def rows(self, part: range, stream: ByteStream) -> torch.Tensor:
        """Some rows [n, columns] of the matrix that its last dimension makes of it."""
        rows, columns = matrix_of(self.shape)
        if len(part) == rows:
            return self.read(stream).view(-1, columns)
        row_bytes = columns * self.dtype.itemsize
        begin = self.begin + part.start * row_bytes
        raw = stream.read(self.path, begin, len(part) * row_bytes, keep=False)
        return raw.view(self.dtype).view(-1, columns)


def read_headers(folder: Path, name: str) -> dict[str, StoredTensor]:
    """Every tensor of the model in `folder`, in the order of files and bytes.

    Raises:
        ModelError: a file is missing, cut off or damaged, or lacks a tensor of the index.
    """
    index = folder / _INDEX
    if not index.is_file():
        return _tensors_of(folder / _SINGLE, name)
    wanted: dict[str, str] = _json(index.read_bytes(), index, name).get("weight_map", {})
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(wanted.values())):
        if Path(shard).name != shard:  # the index is part of a download: trust no path in it
            raise ModelError(f"{name} names a weight file outside its folder: {shard!r}")
        found |= _tensors_of(folder / shard, name)
    lost = sorted(wanted.keys() - found.keys())
    if lost:
        raise ModelError(
            f"{name} is not whole: {wanted[lost[0]]} lacks {lost[0]} and {len(lost) - 1} more"
            " tensors of the index; download it again"
        )
    return found


def check_sums(folder: Path, name: str) -> None:
    """Hashes the files that a `SHA256SUMS` in the folder lists; does nothing without one.

    Raises:
        ModelError: a file is not what it says.
    """
    sums = folder / _SUMS
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8").splitlines():
        # `sha256sum` writes two blanks before a name, or a blank and a star.
        wanted, _, file = line.partition(" ")
        # The list came with the download, so no path in it is trusted, only names.
        path = folder / Path(file.strip(" *")).name
        if path.suffix in (".safetensors", ".gguf") and path.is_file():
            digest = hashlib.sha256()
            with path.open("rb") as stream:
                while piece := stream.read(_PIECE_BYTES):
                    digest.update(piece)
            if digest.hexdigest() != wanted.lower():
                raise ModelError(
                    f"{name}: {path.name} is not the file that {_SUMS} lists (its SHA-256 differs);"
                    " delete it and download it again"
                )


def _tensors_of(path: Path, name: str) -> dict[str, StoredTensor]:
    damaged = f"{name} is damaged: {path.name}"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise ModelError(f"{damaged} is no safetensors file; download it again")
            header = _json(file.read(length), path, name)
    except OSError as error:
        raise ModelError(
            f"{name} is not whole: {path.name} cannot be read ({error.strerror}); download it again"
        ) from None
    try:
        tensors = {
            key: _stored(entry, path, 8 + length)
            for key, entry in header.items()
            if key != "__metadata__"
        }
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{damaged} has no sound header; download it again") from None
    end = max((tensor.begin + tensor.nbytes for tensor in tensors.values()), default=0)
    if end > size:
        raise ModelError(
            f"{name} is not whole: {path.name} has {size:,} of {end:,} bytes; download it again"
        )
    return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


def _stored(entry: dict[str, Any], path: Path, base: int) -> StoredTensor:
    begin, end = (int(place) for place in entry["data_offsets"])
    dtype, shape = _DTYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"])
    nbytes = dtype.itemsize * math.prod(shape)
    if begin < 0 or end - begin != nbytes:
        raise ValueError("a tensor's bytes do not fit its shape")
    return StoredTensor(path, base + begin, nbytes, dtype, shape)


def _json(text: bytes, path: Path, name: str) -> dict[str, Any]:
    try:
        loaded = json.loads(text)
    except ValueError:
        loaded = None
    if not isinstance(loaded, dict):
        raise ModelError(f"{name} is damaged: {path.name} holds no JSON; download it again")
    return loaded
