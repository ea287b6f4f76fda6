"""Specification of the append op: token n of a layer lies in slot n mod slots.

A sum in float32 is finite where all its terms are, as far as they are keys and values of a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["append", "note_finite"]


def append(
    rooms: Sequence[torch.Tensor], rows: Sequence[torch.Tensor], count: torch.Tensor
) -> None:
    """See `rotorquant.ops.append.append`."""
    tokens = rows[0].shape[2]
    places = (count + torch.arange(tokens, device=count.device)) % rooms[0].shape[2]
    for room, new in zip(rooms, rows, strict=True):
        room.index_copy_(2, places, new)
    count += tokens


def note_finite(key: torch.Tensor, value: torch.Tensor, total: torch.Tensor) -> None:
    """See `rotorquant.ops.append.note_finite`."""
    sums = key.sum(dtype=torch.float32) + value.sum(dtype=torch.float32)
    total += sums.detach() * 0.0
