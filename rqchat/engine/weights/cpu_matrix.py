"""Packed matrices in the form that torch's products on a CPU take.

Both products read codes as they are stored, so a token costs the bytes of the codes. The grids are
those of `grid.py`, 3-bit codes among the 4-bit ones, but for the scales of both, which the product
takes as bfloat16: those of compressed tensors are kept to the bit, float16 ones are rounded by
2**-9 at most.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from rqchat.engine.planning.formats import FBGEMM_ROW_BYTES
from rqchat.engine.weights.cpu_linear4 import CpuLinear4
from rqchat.engine.weights.grid import INT3, INT4, INT8_ROWS, Packed, row_parts

__all__ = [
    "CpuHead",
    "CpuInt4",
    "CpuInt4Experts",
    "CpuInt8",
    "CpuLinear8",
    "for_cpu",
    "linear_for_cpu",
]

ROW_STEP = 64  # rows of a tile of codes with AVX-512, half of it without
# Measured on AVX2, 6,144 x 1,536, one thread, the product and float32 through unpacked parts:
# 128 rows 69 and 75 ms, 256 rows 151 and 102, 512 rows 299 and 175. bfloat16 took 1,047 for 512
_DENSE_ROWS = 192
_FBGEMM_ROWS = 2**15
_HALF_STEPS = 63  # of FBGEMM's 127 with sums that cannot overflow 16 bits
_TINY = 1e-30
_PART_VALUES = 2**19  # unpacked at a time; of 2**18 to 2**23 the fastest


@dataclass(frozen=True, slots=True)
class CpuInt4:
    """A matrix on the grid `INT4` or `INT3`, its rows filled up to a multiple of `ROW_STEP`.

    Attributes:
        codes: [filled rows, columns / 2] uint8, in an order that torch chooses for the processor.
        scales: [columns / group, filled rows, 2] bfloat16: scale, and a zero point that is 0.
        rows: rows of the matrix itself.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    rows: int

    @classmethod
    def of(cls, packed: Packed) -> CpuInt4:
        """The same codes; scales are rounded to bfloat16 where they are not."""
        rows, columns = packed.shape
        filled = -(-rows // ROW_STEP) * ROW_STEP
        codes = torch.empty(filled, columns // 2, dtype=torch.uint8)
        for part in row_parts(filled, columns, _PART_VALUES, ROW_STEP):
            given = _unpacked(packed.rows(slice(part.start, part.stop)), len(part))
            codes[part.start : part.stop] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
                given, 1
            )
        scales = torch.zeros(packed.scale.shape[1], filled, 2, dtype=torch.bfloat16)
        scales[:, :rows, 0] = packed.scale.mT
        return cls(codes, scales, rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.codes.shape[1] * 2

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.codes.shape[1] * 2 // self.scales.shape[0]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, columns] times the transposed matrix: [n, rows] in x's dtype."""
        if x.shape[0] >= _DENSE_ROWS and _tile_rows():
            return self._through_dense(x)
        out: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(self.scales.dtype), self.codes, self.group, self.scales
        )
        return (out if out.shape[1] == self.rows else out[:, : self.rows]).to(x.dtype)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Values [rows, columns], computed in float32."""
        return self.dense(range(self.codes.shape[0]))[:, : self.rows].mT.to(dtype)

    def dense(self, part: range) -> torch.Tensor:
        """Columns of the transposed matrix, [columns, rows of the part] float32.

        The part begins and ends at multiples of `ROW_STEP`.
        """
        tile, columns = _tile_rows(), self.codes.shape[1] * 2
        codes = self.codes[part.start : part.stop].view(-1, columns, tile // 2)
        scale = self.scales[:, part.start : part.stop, 0].float().unsqueeze(1)
        values = torch.empty(columns, codes.shape[0], 2, tile // 2)
        # A byte holds one row of the tile's first half and one of its second
        values[:, :, 0] = (codes & 15).transpose(0, 1)
        values[:, :, 1] = (codes >> 4).transpose(0, 1)
        grouped = values.view(-1, self.group, len(part))
        return grouped.sub_(INT4.zero).mul_(scale).view(columns, -1)

    def _through_dense(self, x: torch.Tensor) -> torch.Tensor:
        """The product in float32, some rows of the matrix at a time."""
        given, filled = x.float(), self.codes.shape[0]
        out = x.new_empty(x.shape[0], filled)
        for part in row_parts(filled, x.shape[1], _PART_VALUES, ROW_STEP):
            out[:, part.start : part.stop] = given @ self.dense(part)
        return out[:, : self.rows]


@dataclass(frozen=True, slots=True)
class CpuInt4Experts:
    """The matrices of a mixture's experts, as many `CpuInt4`.

    Attributes:
        codes, scales: theirs, one behind the other: [experts, ...].
        outputs: rows of one matrix.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    outputs: int

    @classmethod
    def of(cls, packed: Packed, experts: int) -> CpuInt4Experts:
        """Those that lie one below the other in `packed`."""
        outputs = packed.shape[0] // experts
        codes = scales = None
        for expert in range(experts):
            one = CpuInt4.of(packed.rows(slice(expert * outputs, (expert + 1) * outputs)))
            if codes is None or scales is None:
                codes, scales = (t.new_empty(experts, *t.shape) for t in (one.codes, one.scales))
            codes[expert], scales[expert] = one.codes, one.scales
        assert codes is not None and scales is not None
        return cls(codes, scales, outputs)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of all of them and columns."""
        return self.codes.shape[0] * self.outputs, self.codes.shape[2] * 2

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Values [rows, columns] of all of them, computed in float32."""
        starts = range(0, self.shape[0], self.outputs)
        return torch.cat([self.rows(slice(row, None)).dequantize(dtype) for row in starts])

    def rows(self, index: slice) -> CpuInt4:
        """The matrix whose rows begin there."""
        expert = index.start // self.outputs
        return CpuInt4(self.codes[expert], self.scales[expert], self.outputs)


@dataclass(frozen=True, slots=True)
class CpuInt8:
    """A matrix on the grid `INT8_ROWS`.

    Attributes:
        codes: [rows, columns] int8.
        scale: [rows] bfloat16.
    """

    codes: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, packed: Packed) -> CpuInt8:
        """The same codes, whose storage it takes over."""
        codes = packed.words.view(torch.uint8).bitwise_xor_(INT8_ROWS.zero)  # q - 128 as int8
        return cls(codes.view(torch.int8), packed.scale.squeeze(-1).bfloat16())

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.codes.shape[0], self.codes.shape[1]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, columns] times the transposed matrix: [n, rows] in x's dtype."""
        out: torch.Tensor = torch.ops.aten._weight_int8pack_mm(
            x.to(self.scale.dtype), self.codes, self.scale
        )
        return out.to(x.dtype)

    def rows(self, index: torch.Tensor | slice) -> CpuInt8:
        """The rows that `index` names: a view for a slice, a copy for a tensor [n]."""
        return CpuInt8(self.codes[index], self.scale[index])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Values [rows, columns], computed in float32."""
        return (self.codes.float() * self.scale.float().unsqueeze(-1)).to(dtype)


@dataclass(frozen=True, slots=True)
class CpuHead(CpuInt8):
    """The same matrix with a copy in the order of FBGEMM, whose 8-bit products read memory faster.

    Attributes:
        copy: of the matrix.
    """

    copy: CpuLinear8

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """As of `CpuLinear8`."""
        return self.copy.product(x)


@dataclass(frozen=True, slots=True)
class CpuLinear8:
    """A matrix on the grid `INT8_ROWS` in the order of FBGEMM alone, of which no row can be read.

    Attributes:
        parts: `_FBGEMM_ROWS` rows each.
        shape: rows and columns.
    """

    parts: tuple[Any, ...]
    shape: tuple[int, int]

    @classmethod
    def of(cls, table: CpuInt8) -> CpuLinear8 | None:
        """The same matrix; None where torch has no FBGEMM, or no longer has it."""
        there = hasattr(torch, "_make_per_channel_quantized_tensor")
        if not there or "fbgemm" not in torch.backends.quantized.supported_engines:
            return None
        # In parts, as torch copies what it packs
        pieces = zip(table.codes.split(_FBGEMM_ROWS), table.scale.split(_FBGEMM_ROWS), strict=True)
        return cls(tuple(_for_fbgemm(*piece) for piece in pieces), table.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and of what lies beside them."""
        return self.shape[0] * (self.shape[1] + FBGEMM_ROW_BYTES)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """As of `CpuInt8`, more exact: x is rounded to two digits of 127 steps, not to bfloat16."""
        count, given = x.shape[0], torch.zeros(2 * x.shape[0] + 1, x.shape[1])
        unit = x.float().abs().amax(-1, keepdim=True).clamp_min(_TINY) / _HALF_STEPS
        scaled = x.float() / unit
        high = torch.round(scaled, out=given[:count])
        torch.round((scaled - high) * (2 * _HALF_STEPS), out=given[count:-1])
        # FBGEMM chooses its steps by the extremes, which are to be 127 apart: steps of 1, then
        given[-1, 0], given[-1, 1] = _HALF_STEPS + 1, -_HALF_STEPS
        given.nan_to_num_(0.0, 0.0, 0.0)  # it refuses them; `unit` brings them back
        found = [torch.ops.quantized.linear_dynamic(given, part, True) for part in self.parts]
        out = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        digits = out[:count].add_(out[count:-1], alpha=0.5 / _HALF_STEPS)
        return digits.mul_(unit).to(x.dtype)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Values [rows, columns], computed in float32."""
        with warnings.catch_warnings(action="ignore"):
            parts = [torch.ops.quantized.linear_unpack(part)[0] for part in self.parts]
            return torch.cat([part.dequantize() for part in parts]).to(dtype)


def _for_fbgemm(codes: torch.Tensor, scale: torch.Tensor) -> Any:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"  # it decides who packs
    try:
        zeros = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings(action="ignore"):  # torch means to replace these tensors
            rows = torch._make_per_channel_quantized_tensor(codes, scale.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(rows, None)
    finally:
        torch.backends.quantized.engine = before


def for_cpu(packed: Packed, experts: int = 1) -> Any:  # each module knows which it takes
    """`packed` in the form of a product on the CPU, or itself where there is none for its grid.

    `experts` matrices lie one below the other.
    """
    if packed.words.device.type != "cpu":
        return packed
    if packed.grid in (INT4, INT3):
        return CpuInt4.of(packed) if experts == 1 else CpuInt4Experts.of(packed, experts)
    return CpuInt8.of(packed) if packed.grid == INT8_ROWS else packed


def linear_for_cpu(packed: Packed) -> Any:
    """The same for a linear layer, of which no row is ever read by itself."""
    if packed.words.device.type == "cpu" and packed.grid in (INT4, INT3):
        return CpuLinear4.of(packed)
    found = for_cpu(packed)
    return (CpuLinear8.of(found) if isinstance(found, CpuInt8) else None) or found


def _unpacked(packed: Packed, rows: int) -> torch.Tensor:
    """Codes [rows, columns] int32; rows that `packed` lacks are 0, as their scale will be."""
    codes = torch.zeros(rows, packed.columns, dtype=torch.int32)
    if packed.grid == INT3:  # 0 in the middle of 16 codes, not of 8
        codes[: packed.shape[0]] = packed.codes() + (INT4.zero - INT3.zero)
        return codes
    pairs = packed.words.view(torch.uint8)
    codes[: packed.shape[0], ::2] = pairs & 15
    codes[: packed.shape[0], 1::2] = pairs >> 4
    return codes


@functools.cache
def _tile_rows() -> int:
    """Rows whose codes lie together, which depends on the processor; 0 for an order not known."""
    row, column = torch.arange(ROW_STEP, dtype=torch.int32), torch.arange(INT4.group)
    codes = (row.unsqueeze(1) * 7 ^ row.unsqueeze(1) >> 4 ^ column.int() * 5) % 16
    given = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    for tile in (64, 32):
        halves = codes.view(-1, 2, tile // 2, INT4.group).to(torch.uint8)
        packed = (halves[:, 0] | halves[:, 1] << 4).mT
        if torch.equal(given.flatten(), packed.flatten()):
            return tile
    return 0
