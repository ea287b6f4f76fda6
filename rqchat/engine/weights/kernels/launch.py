"""Launch tables of the weight kernels, in plain integers. Untuned: no card was at hand."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "DOT_ROWS",
    "GEMV_ROWS",
    "GEMV_SLOTS",
    "Launch",
    "dequantize_launch",
    "dot_launch",
    "expert_launch",
    "gemv_launch",
]

GEMV_ROWS = 4
"""Up to here rows are multiplied one by one, at the same time."""
GEMV_SLOTS = 32
"""Up to here each expert of each row is multiplied on its own: 4 rows of 8 experts."""
DOT_ROWS = 64
"""Up to here tiles are unpacked on chip; above, a layer is unpacked for cuBLAS."""

_PROGRAMS_PER_PROCESSOR = 4


@dataclass(frozen=True, slots=True)
class Launch:
    """One program computes `block_rows` outputs from `block_words` words at a time.

    Attributes:
        splits: programs that share the words of an output.
    """

    block_rows: int
    block_words: int
    num_warps: int
    splits: int = 1


def gemv_launch(words: int, bits: int) -> Launch:
    """Four words to a thread, the more threads the better while less than a sixth of them idles.

    Third bits take registers of their own, which eight outputs at once would not leave.
    """
    warps = next(w for w in (4, 2, 1) if w == 1 or 7 * words > 6 * -(-words // (128 * w)) * 128 * w)
    return Launch(block_rows=4 if bits == 3 else 8, block_words=128 * warps, num_warps=warps)


def dot_launch(rows: int, outputs: int, words: int, bits: int, processors: int) -> Launch:
    """Splits long sums until four programs are there for every processor."""
    block_rows = _dot_outputs(rows, bits)
    programs = -(-outputs // block_rows)
    splits = 1
    while programs * splits < _PROGRAMS_PER_PROCESSOR * processors and words >= 64 * splits:
        splits *= 2
    return Launch(block_rows, block_words=16, num_warps=4, splits=splits)


def _dot_outputs(rows: int, bits: int) -> int:
    """With more, 16 fields of many rows leave the registers."""
    return 32 if bits <= 3 and rows > 16 else 64


def expert_launch(slots: int, experts: int, bits: int) -> tuple[Launch, int]:
    """A launch, and the rows of a tile: about as many as an expert gets, if all get the same."""
    rows = 16
    while rows < DOT_ROWS and rows * experts < slots:
        rows *= 2
    # Third bits of 32 rows and more would not fit the registers of four warps
    warps = 8 if bits == 3 and rows > 16 else 4
    return Launch(_dot_outputs(rows, bits), block_words=16, num_warps=warps), rows


def dequantize_launch() -> Launch:
    """4096 values to a program; `block_words` counts columns here."""
    return Launch(block_rows=4, block_words=1024, num_warps=8)
