"""What a decode step does to a cache: its rows are stored, and looked at for NaN on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.append import reference
from rotorquant.ops.append.reference import Look, codes_of

__all__ = ["Look", "append", "append_scaled", "codes_of", "note_finite"]

_STEPS_LIMIT, _ROW_VALUES_LIMIT = 16, 16_384  # of a kernel; a token's rows fit into one program

_kernel = dispatch.find_kernel(__name__)


@dispatch.on_one_device
def append(
    buffers: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    count: torch.Tensor,
    look: Look | None = None,
) -> None:
    """Store T tokens behind the `count` that there are; token n lies in slot n mod slots.

    Args:
        buffers: [B, H, slots, ...] each, written to.
        rows: [B, H, T, ...] each, of the buffers' dtypes; T is at most the number of slots.
        count: [1] int64 where the buffers are; grows by T.
        look: notes NaN and infinity in the rows, and in what else it names.
    """
    for buffer, new in zip(buffers, rows, strict=True):
        _check(buffer, new, buffer.dtype == new.dtype)
    read = [*rows] if look is None or look.also is None else [*rows, look.also]
    if _kernel is not None and len(read) <= 2 and _fits(read[0]) and _fits(read[-1]):
        _kernel.append(buffers, read, count, None if look is None else look.total)
    else:
        reference.append(buffers, rows, count, look)


@dispatch.on_one_device
def append_scaled(
    buffers: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    count: torch.Tensor,
    look: Look | None = None,
) -> None:
    """Store T tokens of K and V in 8 bits, as codes and a scale for each vector; else as `append`.

    Args:
        buffers: codes [B, H, slots, D] int8 of K and of V, then the scales [B, H, slots] float16
            of both.
        rows: K and V [B, H, T, D] of any floating dtype.
        count: [1] int64 where the buffers are; grows by T.
        look: notes NaN and infinity in K and V; names nothing else.
    """
    for codes, scales, new in zip(buffers[:2], buffers[2:], rows, strict=True):
        fit = codes.dtype == torch.int8 and scales.dtype == torch.float16
        _check(codes, new, fit and scales.shape == codes.shape[:3])
    if _kernel is not None and rows[0].shape == rows[1].shape and _fits(rows[0]):
        _kernel.append_scaled(buffers, rows, count, None if look is None else look.total)
    else:
        reference.append_scaled(buffers, rows, count, look)


@dispatch.on_one_device
def note_finite(key: torch.Tensor, value: torch.Tensor, total: torch.Tensor) -> None:
    """`total` [] float32 becomes NaN, and stays it, if a value [B, H, T, D] is NaN or infinite."""
    reference.note_finite([key, value], total)


def _check(buffer: torch.Tensor, new: torch.Tensor, fit: bool) -> None:
    if not fit or buffer.shape[:2] != new.shape[:2] or new.shape[2] > buffer.shape[2]:
        raise ValueError(f"rows {tuple(new.shape)} do not fit buffer {tuple(buffer.shape)}")


def _fits(rows: torch.Tensor) -> bool:
    batch, heads, tokens, *values = rows.shape
    small = heads * math.prod(values) <= _ROW_VALUES_LIMIT and batch * heads > 0
    return small and 0 < tokens <= _STEPS_LIMIT and dispatch.on_gpu(rows)
