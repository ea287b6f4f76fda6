"""The header of a GGUF file: its metadata, and which tensors lie where, in which blocks. No torch.

Format: github.com/ggml-org/ggml, docs/gguf.md. The `gguf` package (0.19.0) reads the same, but
makes several arrays for every entry of a vocabulary: 262,144 tokens with scores and types cost it
25.6 s of processor time, and 0.16 s here, where long lists are skipped unless they are asked for.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rqchat.engine.foreign import border
from rqchat.errors import ModelError

__all__ = ["BLOCKS", "GgufHeader", "GgufTensor", "parse_header", "read_gguf", "read_header"]

_MAGIC = b"GGUF"
# Version 1 counts in 32 bits where these have 64.
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# How `struct` reads a metadata value by GGUF's number of its type; texts and arrays have no size.
_SCALARS = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i"},
    **{6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"},
}
_UINT32 = 4
_ALIGNMENT = 32
# A header may claim 2^64 of anything; the largest there are stay far below
_MOST_TENSORS, _MOST_FIELDS, _MOST_TEXTS = 100_000, 100_000, 4_000_000
_MOST_DIMENSIONS = 8  # ggml's own limit is 4

# A list for every layer is kept; longer ones belong to the tokenizer
_SHORT_LIST = 4096
_MOST_TEXT_BYTES = 2**24  # of a value: a chat template has some ten thousand

BLOCKS = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "F64": (1, 8),
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210), "IQ1_S": (256, 50), "IQ1_M": (256, 56), "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74), "IQ2_S": (256, 82), "IQ3_XXS": (256, 98), "IQ3_S": (256, 110),
    "IQ4_NL": (32, 18), "IQ4_XS": (256, 136), "TQ1_0": (256, 54), "TQ2_0": (256, 66),
    "MXFP4": (32, 17), "NVFP4": (64, 36),
}  # fmt: skip
"""Values and bytes of a block, for every type that can be read."""
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
_SOUND = ("a.", "mm.a.")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies: `nbytes` from `begin` in the file at `path`, in blocks of `kind`."""

    path: Path
    begin: int
    nbytes: int
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the tensors' bytes.

    Attributes:
        tensors: by their names in the file, in the order of their bytes; those for sound are left
            out, which nobody reads.
        fields: metadata: numbers, texts, and lists that are short or were asked for.
    """

    tensors: dict[str, GgufTensor]
    fields: dict[str, Any]


def read_gguf(path: Path, name: str) -> dict[str, GgufTensor]:
    """Every tensor of the file, in the order of its bytes.

    Raises:
        ModelError: no GGUF file, cut off, or with blocks that cannot be read.
    """
    return read_header(path, name).tensors


def read_header(path: Path, name: str, lists: Collection[str] = ()) -> GgufHeader:
    """The header of the file; `lists` are long lists of the metadata that are wanted, too.

    Raises:
        ModelError: no GGUF file, cut off, or with blocks that cannot be read.
    """
    with (
        border(lambda cause: _damaged(path, name, cause)),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        header = _Parser(data, path, name, lists).header()
        size = len(data)
    end = max((tensor.begin + tensor.nbytes for tensor in header.tensors.values()), default=0)
    if end > size:
        raise ModelError(
            f"{name} is not whole: {path.name} has {size:,} of {end:,} bytes; download it again"
        )
    return header


def parse_header(data: bytes, path: Path, name: str) -> GgufHeader | None:
    """The header of a file that begins with `data`; None where more of it is needed.

    Raises:
        ModelError: no GGUF file, or with blocks that cannot be read.
    """
    with border(lambda cause: _damaged(path, name, cause)):
        try:
            return _Parser(data, path, name).header()
        except _EndError:
            return None


class _EndError(ValueError):
    """There are fewer bytes than the header has."""


def _damaged(path: Path, name: str, cause: str) -> ModelError:
    return ModelError(
        f"{name} is damaged: {path.name} is no whole GGUF file ({cause}); download it again"
    )


class _Parser:
    """A place in the file, which moves on with every read."""

    def __init__(
        self, data: mmap.mmap | bytes, path: Path, name: str, lists: Collection[str] = ()
    ) -> None:
        self.data, self.path, self.name, self.lists = data, path, name, lists
        self.fields: dict[str, Any] = {}
        self.place = len(_MAGIC)
        self.alignment = _ALIGNMENT
        self.texts = 0

    def header(self) -> GgufHeader:
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
        tensors = {
            key: self._tensor(key, base + at, kind, shape)
            for key, at, kind, shape in entries
            if not key.startswith(_SOUND)
        }
        ordered = dict(sorted(tensors.items(), key=lambda item: item[1].begin))
        return GgufHeader(ordered, self.fields)

    def _number(self, kind: str) -> int:
        at = self._pass(struct.calcsize("<" + kind))
        (found,) = struct.unpack_from("<" + kind, self.data, at)
        return int(found)

    def _pass(self, nbytes: int) -> int:
        """Moves on by so many bytes; returns where they begin."""
        begin = self.place
        if nbytes > len(self.data) - begin:
            raise _EndError("it ends within its header")
        self.place += nbytes
        return begin

    def _text(self) -> str:
        begin = self._pass(self._number("Q"))
        return self.data[begin : self.place].decode()

    def _field(self) -> None:
        """Reads a field of metadata."""
        key, kind = self._text(), self._number("I")
        if kind == _STRING:
            begin = self._pass(self._number("Q"))
            if self.place - begin <= _MOST_TEXT_BYTES:
                self.fields[key] = self.data[begin : self.place].decode(errors="replace")
        elif kind == _ARRAY:
            self._list(key)
        else:
            self.fields[key] = self._scalars(kind, 1)[0]
        if key == "general.alignment" and kind == _UINT32:
            self.alignment = self.fields[key]
            if self.alignment.bit_count() != 1:
                raise ValueError(f"its alignment is {self.alignment}, not a power of two")

    def _list(self, key: str) -> None:
        inner, count = self._number("I"), self._number("Q")
        wanted = count <= _SHORT_LIST or key in self.lists
        if inner == _STRING and wanted:
            spans = self._texts(count)
            self.fields[key] = [self.data[a:b].decode(errors="replace") for a, b in spans]
        elif inner in _SCALARS and wanted:
            self.fields[key] = list(self._scalars(inner, count))
        else:
            self._skip_array(inner, count)

    def _texts(self, count: int) -> Iterator[tuple[int, int]]:
        """Moves on by so many texts; where each begins and ends."""
        self._count(count)
        data, place, size, length = self.data, self.place, len(self.data), struct.Struct("<Q")
        # A vocabulary and its merges are 0.8 million: a call for each would take a second
        for _ in range(count):
            begin = place + length.size
            if begin > size:
                raise _EndError("it ends within its header")
            place = begin + length.unpack_from(data, place)[0]
            yield begin, place
        self.place = place
        self._pass(0)

    def _scalars(self, kind: int, count: int) -> tuple[Any, ...]:
        if kind not in _SCALARS:
            raise ValueError(f"a field has the unknown type {kind}")
        code = _SCALARS[kind]
        begin = self._pass(count * struct.calcsize("<" + code))
        return struct.unpack_from(f"<{count}{code}", self.data, begin)

    def _skip_array(self, inner: int, count: int) -> None:
        if inner in _SCALARS:
            self._pass(count * struct.calcsize("<" + _SCALARS[inner]))
            return
        if inner == _STRING:
            for _ in self._texts(count):
                pass
            return
        if inner != _ARRAY and count:
            raise ValueError(f"a field has the unknown type {inner}")
        self._count(count)
        for _ in range(count):
            self._skip_array(self._number("I"), self._number("Q"))

    def _count(self, texts: int) -> None:
        self.texts += texts
        if self.texts > _MOST_TEXTS:
            raise ValueError(f"it claims {self.texts:,} texts in arrays")

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
                f" rqchat reads {', '.join(BLOCKS)}; take a file of the same model with those"
            )
        values, block_bytes = BLOCKS[_TYPES[kind]]
        if 0 in shape or (shape and shape[-1] % values):
            raise ValueError(f"the blocks of {key!r:.80} do not fill its rows")
        nbytes = math.prod(shape) // values * block_bytes
        return GgufTensor(self.path, begin, nbytes, _TYPES[kind], shape)
