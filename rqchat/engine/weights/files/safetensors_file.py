"""The safetensors files of a folder: what they hold, checked against their sizes before a load.

Format: 8 bytes with the length of a JSON header, the header, the tensors' bytes
(github.com/huggingface/safetensors). No code is ever run and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rqchat.engine.foreign import border
from rqchat.engine.model_files.json_object import parse_object, weight_map
from rqchat.engine.weights.grid import matrix_of
from rqchat.engine.weights.transfer import ByteStream
from rqchat.errors import ModelError

__all__ = ["StoredTensor", "check_sums", "read_headers"]

_SINGLE = "model.safetensors"
_SUMS = "SHA256SUMS"
# The limit of the safetensors library itself.
_HEADER_LIMIT = 100_000_000
_PIECE_BYTES = 2**24
_MOST, _MOST_DIMENSIONS = 2**63, 16
_AGAIN = "download it again"
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
    wanted = weight_map(folder, name)
    if wanted is None:
        return _tensors_of(folder / _SINGLE, name)
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(wanted.values())):
        found |= _tensors_of(folder / shard, name)
    lost = sorted(wanted.keys() - found.keys())
    if lost:
        raise ModelError(
            f"{name} is not whole: {wanted[lost[0]]} lacks {lost[0]!r:.200} and {len(lost) - 1}"
            " more tensors of the index; download it again"
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
    with border(lambda cause: ModelError(f"{_SUMS} of {name} cannot be read: {cause}; delete it")):
        lines = sums.read_text(encoding="utf-8").splitlines()
        for line in lines:
            # `sha256sum` writes two blanks before a name, or a blank and a star.
            wanted, _, file = line.partition(" ")
            # The list came with the download, so no path in it is trusted, only names.
            path = folder / Path(file.strip(" *")).name
            if path.suffix in (".safetensors", ".gguf") and path.is_file():
                _check_sum(path, wanted.lower(), name)


def _check_sum(path: Path, wanted: str, name: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
    if digest.hexdigest() != wanted:
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
            data = file.read(length)
    except OSError as error:
        raise ModelError(
            f"{name} is not whole: {path.name} cannot be read ({error.strerror}); download it again"
        ) from None
    header = parse_object(data, path.name, name)
    with border(lambda cause: ModelError(f"{damaged} has no sound header ({cause}); {_AGAIN}")):
        tensors = {
            key: _stored(key, entry, path, 8 + length)
            for key, entry in header.items()
            if key != "__metadata__"
        }
    end = max((tensor.begin + tensor.nbytes for tensor in tensors.values()), default=0)
    if end > size:
        raise ModelError(
            f"{name} is not whole: {path.name} has {size:,} of {end:,} bytes; download it again"
        )
    return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


def _stored(key: str, entry: Any, path: Path, base: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape, kind = entry["shape"], entry["dtype"]
    sizes = [begin, end, *shape]
    # Other numbers pass `int` or multiply: true, 1e400, "8", and two negatives to a positive
    sound = all(type(size) is int and 0 <= size < _MOST for size in sizes)
    if not sound or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{key!r:.80} has no sound sizes")
    if kind not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise ValueError(f"{key!r:.80} is stored as {kind!r:.20}; rqchat reads {known}")
    nbytes = _DTYPES[kind].itemsize * math.prod(shape)
    if end - begin != nbytes:
        raise ValueError(f"the bytes of {key!r:.80} do not fit its shape")
    return StoredTensor(path, base + begin, nbytes, _DTYPES[kind], tuple(shape))
