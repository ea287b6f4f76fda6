"""What a decode step does to a cache: its rows are stored, and looked at for NaN."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from types import ModuleType

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.append import reference

__all__ = ["append", "note_finite"]

_STEPS_LIMIT, _ROW_VALUES_LIMIT = 16, 16_384  # of a kernel; a token's rows fit into one program

_kernel: ModuleType | None = None
if torch.backends.cuda.is_built():  # ROCm says so, too; most such builds bring Triton
    with contextlib.suppress(ImportError):
        from rotorquant.ops.append import kernel as _kernel


def append(
    rooms: Sequence[torch.Tensor], rows: Sequence[torch.Tensor], count: torch.Tensor
) -> None:
    """Store T tokens behind the `count` that there are; token n lies in slot n mod slots.

    Args:
        rooms: [B, H, slots, ...] each, written to.
        rows: [B, H, T, ...] each, of the rooms' dtypes; T is at most the number of slots.
        count: [1] int64 where the rooms are; grows by T.
    """
    tokens, slots = rows[0].shape[2], rooms[0].shape[2]
    for room, new in zip(rooms, rows, strict=True):
        if room.dtype != new.dtype or room.shape[:2] != new.shape[:2] or tokens > slots:
            raise ValueError(f"rows {tuple(new.shape)} do not fit room {tuple(room.shape)}")
    if _kernel is not None and len(rooms) <= 2 and _fits(rows[0]) and _fits(rows[-1]):
        _kernel.append(rooms, rows, count)
    else:
        reference.append(rooms, rows, count)


def note_finite(key: torch.Tensor, value: torch.Tensor, total: torch.Tensor) -> None:
    """`total` [] float32 becomes NaN, and stays it, if a value [B, H, T, D] is NaN or infinite."""
    if _kernel is not None and _fits(key) and _fits(value):
        _kernel.note_finite(key, value, total)
    else:
        reference.note_finite(key, value, total)


def _fits(rows: torch.Tensor) -> bool:
    batch, heads, tokens, *values = rows.shape
    small = heads * math.prod(values) <= _ROW_VALUES_LIMIT and batch * heads > 0
    return small and 0 < tokens <= _STEPS_LIMIT and dispatch.on_gpu(rows)
