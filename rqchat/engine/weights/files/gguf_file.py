"""GGUF files: which tensors lie where, and what the blocks of their formats stand for.

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

import torch

from rqchat.engine.weights.grid import INT4, Packed
from rqchat.errors import ModelError

__all__ = ["BLOCKS", "PLAIN", "GgufTensor", "pack_q4_0", "read_gguf", "unpack"]

_MAGIC = b"GGUF"
# Version 1 counts in 32 bits where these have 64.
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Bytes of a metadata value by GGUF's number of its type; texts and arrays have no fixed size.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32 = 4
_ALIGNMENT = 32

BLOCKS = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2),
    "Q4_0": (32, 18), "Q8_0": (32, 34), "Q6_K": (256, 210),
}  # fmt: skip
"""Values and bytes of a block, for every type that can be read."""
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that are no blocks."""
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
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tensors = _Header(data, path, name).tensors()
            size = len(data)
    # ValueError also stands for an empty file, which cannot be mapped
    except (OSError, ValueError, struct.error, KeyError):
        raise ModelError(
            f"{name} is damaged: {path.name} is no whole GGUF file; download it again"
        ) from None
    end = max((tensor.begin + tensor.nbytes for tensor in tensors.values()), default=0)
    if end > size:
        raise ModelError(
            f"{name} is not whole: {path.name} has {size:,} of {end:,} bytes; download it again"
        )
    return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


class _Header:
    """A place in the mapped file, which moves on with every read."""

    def __init__(self, data: mmap.mmap, path: Path, name: str) -> None:
        self.data, self.path, self.name = data, path, name
        self.place = len(_MAGIC)
        self.alignment = _ALIGNMENT

    def tensors(self) -> dict[str, GgufTensor]:
        if self.data[: len(_MAGIC)] != _MAGIC or self._number("I") not in _VERSIONS:
            raise ValueError("no GGUF")
        count, fields = self._number("Q"), self._number("Q")
        for _ in range(fields):
            self._field()
        entries = [self._entry() for _ in range(count)]
        # Offsets count from here: where the header ends, rounded up.
        base = -(-self.place // self.alignment) * self.alignment
        return {key: self._tensor(key, base + at, kind, shape) for key, at, kind, shape in entries}

    def _number(self, kind: str) -> int:
        (found,) = struct.unpack_from("<" + kind, self.data, self.place)
        self.place += struct.calcsize("<" + kind)
        return int(found)

    def _text(self) -> str:
        length = self._number("Q")
        self.place += length
        return self.data[self.place - length : self.place].decode()

    def _field(self) -> None:
        """Skips a field of metadata, but for the alignment."""
        key, kind = self._text(), self._number("I")
        if key == "general.alignment" and kind == _UINT32:
            self.alignment = self._number("I")
        else:
            self._skip(kind)

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            length = self._number("Q")
            self.place += length
        elif kind == _ARRAY:
            inner, count = self._number("I"), self._number("Q")
            if inner in _SIZES:
                self.place += count * _SIZES[inner]
            else:
                for _ in range(count):
                    self._skip(inner)
        else:
            self.place += _SIZES[kind]

    def _entry(self) -> tuple[str, int, int, tuple[int, ...]]:
        """Name, offset, type and shape; the file names the fastest dimension first."""
        key = self._text()
        shape = tuple(self._number("Q") for _ in range(self._number("I")))[::-1]
        kind = self._number("I")
        return key, self._number("Q"), kind, shape

    def _tensor(self, key: str, begin: int, kind: int, shape: tuple[int, ...]) -> GgufTensor:
        if kind not in _TYPES:
            raise ModelError(
                f"{self.name}: {key} in {self.path.name} has blocks of GGUF type {kind}; rqchat"
                f" reads {', '.join(BLOCKS)}, such as Google's q4_0 files"
            )
        values, block_bytes = BLOCKS[_TYPES[kind]]
        if shape and shape[-1] % values:
            raise ValueError("blocks do not fill a row")
        nbytes = math.prod(shape) // values * block_bytes
        return GgufTensor(self.path, begin, nbytes, _TYPES[kind], shape)


def unpack(raw: torch.Tensor, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Values of `shape` from bytes [n]: in the stored type, or bfloat16 out of quantized blocks."""
    if kind in PLAIN:
        return raw.view(PLAIN[kind]).view(shape)
    _, size = BLOCKS[kind]
    return _UNPACK[kind](raw.view(-1, size)).bfloat16().view(shape)


def pack_q4_0(raw: torch.Tensor, shape: tuple[int, ...]) -> Packed:
    """Q4_0 blocks as they are, on the grid `INT4`: the same codes and scales in another order.

    A block holds a float16 scale and 16 bytes: values 0 to 15 in the low halves, 16 to 31 above.
    """
    blocks = raw.view(shape[0], -1, BLOCKS["Q4_0"][1])
    low, high = blocks[..., 2:] & 15, blocks[..., 2:] >> 4
    codes = torch.cat((low, high), dim=-1).flatten(-2)
    return Packed.pack(INT4, codes, _half(blocks[..., :2]).squeeze(-1), None)


def _half(pairs: torch.Tensor) -> torch.Tensor:
    """[..., 2 n] bytes as [..., n] float16."""
    return pairs.contiguous().view(torch.float16)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    codes = torch.cat((blocks[:, 2:] & 15, blocks[:, 2:] >> 4), dim=-1)
    return (codes.float() - 8) * _half(blocks[:, :2]).float()


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    """A float16 scale and 32 signed bytes."""
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks[:, :2]).float()


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    """128 bytes of low halves, 64 of upper pairs, 16 signed scales of 16 values, a float16 scale.

    Both halves of a block hold 128 values: low halves of two runs of 64, pairs of four runs of 32.
    """
    low, high = blocks[:, :128].view(-1, 2, 64), blocks[:, 128:192].view(-1, 2, 32)
    low = torch.cat((low & 15, low >> 4), dim=-1)
    high = torch.cat([(high >> shift) & 3 for shift in (0, 2, 4, 6)], dim=-1)
    codes = (low | (high << 4)).flatten(1).float() - 32
    scale = blocks[:, 192:208].view(torch.int8).float() * _half(blocks[:, 208:]).float()
    return codes * scale.repeat_interleave(16, dim=-1)


_UNPACK = {"Q4_0": _q4_0, "Q8_0": _q8_0, "Q6_K": _q6_k}
