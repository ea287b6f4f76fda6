"""Tensors as matrices, in parts that bound what is held beside the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

__all__ = ["matrix_of", "part_values", "row_parts"]

_PART_VALUES = 2**22  # a fit holds 6.5 float32 tensors of a part: 0.11 GB
_CPU_PART_VALUES = 2**18  # stays in a cache; measured twice as fast as 2**24


def matrix_of(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor whose last dimension is that of a row."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def part_values(device: torch.device) -> int:
    """Values that are unpacked, fitted or converted at a time with torch alone."""
    return _CPU_PART_VALUES if device.type == "cpu" else _PART_VALUES


def row_parts(rows: int, columns: int, most_values: int) -> Iterator[range]:
    """The rows in runs of at most so many values, one row at least."""
    step = max(1, most_values // columns)
    for begin in range(0, rows, step):
        yield range(begin, min(begin + step, rows))
