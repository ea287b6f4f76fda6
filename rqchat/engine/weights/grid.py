"""The packed formats of a matrix: `bits` wide codes with a scale, and maybe an offset, per group.

    value[n, k] = scale[n, g] * code[n, k] + offset[n, g]        g = k // group

A symmetric grid stores no offset: offset = -2**(bits - 1) * scale. Codes lie in little-endian int32
words along k: code k in bits (k mod fields) * bits of word k // fields, fields = 32 / bits. For 4
bits and groups of 32 this is how compressed-tensors stores a `pack-quantized` weight, to the byte.

This file is the specification, in torch; `kernels/linear.py` computes the same on
a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from rqchat.errors import ModelError

__all__ = [
    "INT2",
    "INT3",
    "INT4",
    "INT8_ROWS",
    "Grid",
    "Packed",
    "matrix_of",
    "part_values",
    "row_parts",
]

_PART_VALUES = 2**22  # a fit holds 6.5 float32 tensors of a part: 0.11 GB
_CPU_PART_VALUES = 2**18  # stays in a cache; measured twice as fast as 2**24


@dataclass(frozen=True, slots=True)
class Grid:
    """A packed format.

    Attributes:
        bits: 2, 3, 4 or 8.
        group: columns that share a scale; 0 for whole rows.
        has_offset: an offset is stored with each scale.
        least_group: columns that share one where `group` does not divide a row; 0 for none.
    """

    bits: int
    group: int
    has_offset: bool = False
    least_group: int = 0

    @property
    def low_bits(self) -> int:
        """Bits of a code that lie in its word."""
        return self.bits // 2 * 2

    @property
    def fields(self) -> int:
        """Codes in a word."""
        return 32 // self.low_bits

    @property
    def zero(self) -> int:
        """The code that stands for 0 on a symmetric grid."""
        return 1 << (self.bits - 1)

    def group_of(self, columns: int) -> int:
        """Columns that share a scale in a matrix of that many.

        Raises:
            ModelError: they cannot be divided into groups, or groups into words.
        """
        group = self.group or columns
        if columns % group and self.least_group:
            group = self.least_group
        if columns % group or group % self.fields:
            raise ModelError(
                f"a weight has {columns} inputs, which {self.bits}-bit groups of {group} do not"
                " divide; take other --weights, such as bf16"
            )
        return group

    def nbytes(self, rows: int, columns: int) -> int:
        """Bytes of a packed matrix, 16 bits to a scale and to an offset."""
        groups = rows * columns // self.group_of(columns)
        return rows * columns * self.bits // 8 + groups * (4 if self.has_offset else 2)


INT4 = Grid(bits=4, group=32)
"""Google's QAT grid: w4a16 of compressed-tensors, and Q4_0 of GGUF."""
INT3 = Grid(bits=3, group=128, least_group=64)
"""Scales may be negative: the side with the code 0 reaches further than that with 7."""
INT2 = Grid(bits=2, group=64, has_offset=True)
INT8_ROWS = Grid(bits=8, group=0)


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed matrix [rows, columns].

    Attributes:
        grid: its format.
        words: [rows, columns / fields] int32.
        scale: [rows, columns / group], float16 or bfloat16.
        offset: the same, or None on a symmetric grid.
        high: [rows, columns / 16] int16, the third bits; None for other widths.
    """

    grid: Grid
    words: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor | None = None
    high: torch.Tensor | None = None

    @classmethod
    def pack(
        cls, grid: Grid, codes: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor | None
    ) -> Packed:
        """Packs codes [rows, columns], integers in [0, 2**bits)."""
        if grid.bits == 8:  # the bytes themselves
            return cls(grid, codes.to(torch.uint8).contiguous().view(torch.int32), scale, offset)
        fields, low = codes.unflatten(-1, (-1, grid.fields)), (1 << grid.low_bits) - 1
        # Field by field: all at once, every code would take the four bytes of a word
        words = (fields[..., 0] & low).to(torch.int32)
        high = torch.zeros_like(words, dtype=torch.int16) if grid.bits == 3 else None
        for field in range(grid.fields):
            words |= (fields[..., field] & low).to(torch.int32) << (grid.low_bits * field)
            if high is not None:
                high |= (fields[..., field] >> grid.low_bits).to(torch.int16) << field
        return cls(grid, words, scale, offset, high)

    @classmethod
    def join(
        cls, pieces: Iterable[Packed], rows: int, device: torch.device | None = None
    ) -> Packed:
        """The matrix of `rows` rows whose rows come in `pieces`, none of which is kept.

        It lies on `device`, or where the first piece does.
        """
        whole, done = None, 0
        for piece in pieces:
            whole = whole or piece._empty(rows, device or piece.words.device)
            end = done + piece.words.shape[0]
            whole.words[done:end], whole.scale[done:end] = piece.words, piece.scale
            if whole.offset is not None and piece.offset is not None:
                whole.offset[done:end] = piece.offset
            if whole.high is not None and piece.high is not None:
                whole.high[done:end] = piece.high
            done = end
        assert whole is not None and done == rows
        return whole

    def _empty(self, rows: int, device: torch.device) -> Packed:
        """An uninitialized matrix of that many rows on the same grid."""
        words = self.words.new_empty(rows, self.words.shape[1], device=device)
        scale = self.scale.new_empty(rows, self.scale.shape[1], device=device)
        offset = None if self.offset is None else torch.empty_like(scale)
        high = None if self.high is None else torch.empty_like(words, dtype=torch.int16)
        return Packed(self.grid, words, scale, offset, high)

    @property
    def columns(self) -> int:
        """Inputs of the layer."""
        return self.words.shape[-1] * self.grid.fields

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.words.shape[0], self.columns

    @property
    def nbytes(self) -> int:
        """Bytes that its tensors occupy."""
        tensors = (self.words, self.scale, self.offset, self.high)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def codes(self) -> torch.Tensor:
        """Codes [rows, columns] uint8."""
        grid = self.grid
        fields = torch.arange(grid.fields, dtype=torch.int32, device=self.words.device)
        # The shift of a signed word brings in its sign, which the mask takes away.
        low = self.words.unsqueeze(-1) >> fields * grid.low_bits & ((1 << grid.low_bits) - 1)
        codes = low.to(torch.uint8)
        if self.high is not None:
            bits = self.high.unsqueeze(-1) >> fields.to(torch.int16) & 1
            codes |= bits.to(torch.uint8) << grid.low_bits
        return codes.flatten(-2)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Values [rows, columns], computed in float32."""
        scale = self.scale.float().unsqueeze(-1)
        offset = -self.grid.zero * scale if self.offset is None else self.offset.float()[..., None]
        codes = self.codes().unflatten(-1, (scale.shape[-2], -1))
        return torch.addcmul(offset, codes.float(), scale).to(dtype).flatten(-2)

    def rows(self, index: torch.Tensor | slice) -> Packed:
        """The rows that `index` names: a view for a slice, a copy for a tensor [n]."""
        offset = None if self.offset is None else self.offset[index]
        high = None if self.high is None else self.high[index]
        return Packed(self.grid, self.words[index], self.scale[index], offset, high)


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor whose last dimension is that of a row."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def part_values(device: torch.device) -> int:
    """Values that are unpacked, fitted or converted at a time with torch alone."""
    return _CPU_PART_VALUES if device.type == "cpu" else _PART_VALUES


def row_parts(rows: int, columns: int, most_values: int, multiple: int = 1) -> Iterator[range]:
    """The rows in runs of at most so many values, `multiple` rows at least and a multiple of it."""
    step = max(multiple, most_values // columns // multiple * multiple)
    for begin in range(0, rows, step):
        yield range(begin, min(begin + step, rows))
