"""The header of a GGUF file: which tensors lie where, in which blocks. No torch.

Format: github.com/ggml-org/ggml, docs/gguf.md. The `gguf` package (0.19.0) reads the same, but
makes several arrays for every entry of a vocabulary: 262,144 tokens with scores and types cost it
25.6 s of processor time, and 0.16 s here, where they are skipped.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from rqchat.engine.foreign import border
from rqchat.errors import ModelError

__all__ = ["BLOCKS", "GgufTensor", "read_gguf"]

_MAGIC = b"GGUF"
# Version 1 counts in 32 bits where these have 64.
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Bytes of a metadata value by GGUF's number of its type; texts and arrays have no fixed size.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32 = 4
_ALIGNMENT = 32
# A header may claim 2^64 of anything; the largest there are stay far below
_MOST_TENSORS, _MOST_FIELDS, _MOST_TEXTS = 100_000, 100_000, 4_000_000
_MOST_DIMENSIONS = 8  # ggml's own limit is 4

BLOCKS = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2),
    "Q4_0": (32, 18), "Q8_0": (32, 34), "Q6_K": (256, 210),
}  # fmt: skip
"""Values and bytes of a block, for every type that can be read."""
_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 8: "Q8_0", 14: "Q6_K", 30: "BF16"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies: `nbytes` from `begin` in the file at `path`, in blocks of `kind`."""

    path: Path
    begin: int
    nbytes: int
    kind: str
    shape: tuple[int, ...]


def read_gguf(path: Path, name: str) -> dict[str, GgufTensor]:
    """Every tensor of the file, in the order of its bytes.

    Raises:
        ModelError: no GGUF file, cut off, or with blocks that cannot be read.
    """
    with (
        border(lambda cause: _damaged(path, name, cause)),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        tensors = _Header(data, path, name).tensors()
        size = len(data)
    end = max((tensor.begin + tensor.nbytes for tensor in tensors.values()), default=0)
    if end > size:
        raise ModelError(
            f"{name} is not whole: {path.name} has {size:,} of {end:,} bytes; download it again"
        )
    return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


def _damaged(path: Path, name: str, cause: str) -> ModelError:
    return ModelError(
        f"{name} is damaged: {path.name} is no whole GGUF file ({cause}); download it again"
    )


class _Header:
    """A place in the mapped file, which moves on with every read."""

    def __init__(self, data: mmap.mmap, path: Path, name: str) -> None:
        self.data, self.path, self.name = data, path, name
        self.place = len(_MAGIC)
        self.alignment = _ALIGNMENT
        self.texts = 0

    def tensors(self) -> dict[str, GgufTensor]:
        if self.data[: len(_MAGIC)] != _MAGIC:
            raise ValueError("it does not begin as one")
        if (version := self._number("I")) not in _VERSIONS:
            raise ValueError(f"its version is {version}, not one of {_VERSIONS}")
        count, fields = self._number("Q"), self._number("Q")
        if count > _MOST_TENSORS or fields > _MOST_FIELDS:
            raise ValueError(f"it claims {count:,} tensors and {fields:,} fields")
        for _ in range(fields):
            self._field()
        entries = [self._entry() for _ in range(count)]
        # Offsets count from here: where the header ends, rounded up.
        base = -(-self.place // self.alignment) * self.alignment
        return {key: self._tensor(key, base + at, kind, shape) for key, at, kind, shape in entries}

    def _number(self, kind: str) -> int:
        at = self._pass(struct.calcsize("<" + kind))
        (found,) = struct.unpack_from("<" + kind, self.data, at)
        return int(found)

    def _pass(self, nbytes: int) -> int:
        """Moves on by so many bytes; returns where they begin."""
        begin = self.place
        if nbytes > len(self.data) - begin:
            raise ValueError("it ends within its header")
        self.place += nbytes
        return begin

    def _text(self) -> str:
        begin = self._pass(self._number("Q"))
        return self.data[begin : self.place].decode()

    def _field(self) -> None:
        """Skips a field of metadata, but for the alignment."""
        key, kind = self._text(), self._number("I")
        if key == "general.alignment" and kind == _UINT32:
            self.alignment = self._number("I")
            if self.alignment.bit_count() != 1:
                raise ValueError(f"its alignment is {self.alignment}, not a power of two")
        else:
            self._skip(kind)

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._pass(self._number("Q"))
        elif kind == _ARRAY:
            self._skip_array(self._number("I"), self._number("Q"))
        elif kind in _SIZES:
            self._pass(_SIZES[kind])
        else:
            raise ValueError(f"a field has the unknown type {kind}")

    def _skip_array(self, inner: int, count: int) -> None:
        if inner in _SIZES:
            self._pass(count * _SIZES[inner])
            return
        self.texts += count
        if self.texts > _MOST_TEXTS:
            raise ValueError(f"it claims {self.texts:,} texts in arrays")
        for _ in range(count):
            self._skip(inner)

    def _entry(self) -> tuple[str, int, int, tuple[int, ...]]:
        """Name, offset, type and shape; the file names the fastest dimension first."""
        key, dimensions = self._text(), self._number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions:,} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        kind = self._number("I")
        return key, self._number("Q"), kind, shape

    def _tensor(self, key: str, begin: int, kind: int, shape: tuple[int, ...]) -> GgufTensor:
        if kind not in _TYPES:
            raise ModelError(
                f"{self.name}: {key!r:.80} in {self.path.name} has blocks of GGUF type {kind};"
                f" rqchat reads {', '.join(BLOCKS)}, such as Google's q4_0 files"
            )
        values, block_bytes = BLOCKS[_TYPES[kind]]
        if 0 in shape or (shape and shape[-1] % values):
            raise ValueError(f"the blocks of {key!r:.80} do not fill its rows")
        nbytes = math.prod(shape) // values * block_bytes
        return GgufTensor(self.path, begin, nbytes, _TYPES[kind], shape)
