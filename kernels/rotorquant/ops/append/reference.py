"""Specification of the append op: token n of a layer lies in slot n mod slots.

With 8 bits a vector x is int8 codes round(x / s), half to even, and an fp16 scale s = max|x| / 127.
A sum in float32 is finite where all its terms are, as far as they are keys and values of a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["Look", "append", "append_scaled", "codes_of", "note_finite"]

SMALLEST_STEP = torch.finfo(torch.float16).tiny


class Look(NamedTuple):
    """Where NaN and infinity among stored rows are noted.

    total: [] float32, which becomes NaN then, and stays it.
    also: [B, H, T, D], looked at like the rows and not stored, or None.
    """

    total: torch.Tensor
    also: torch.Tensor | None = None


def append(
    buffers: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    count: torch.Tensor,
    look: Look | None = None,
) -> None:
    """Store rows [B, H, T, ...] of every stream in its buffer [B, H, slots, ...]."""
    if look is not None:
        note_finite([*rows, *([] if look.also is None else [look.also])], look.total)
    tokens, slots = rows[0].shape[2], buffers[0].shape[2]
    if _is_read_at_once(count):
        place = int(count) % slots
        if place + tokens <= slots:
            for buffer, new in zip(buffers, rows, strict=True):
                buffer.narrow(2, place, tokens).copy_(new)
            count += tokens
            return
    places = (count + torch.arange(tokens, device=count.device)) % slots
    for buffer, new in zip(buffers, rows, strict=True):
        buffer.index_copy_(2, places, new)
    count += tokens


def append_scaled(
    buffers: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    count: torch.Tensor,
    look: Look | None = None,
) -> None:
    """Store the codes of K and V, then their scales."""
    if look is not None:
        note_finite(rows, look.total)
    encoded = [codes_of(each) for each in rows]
    append(buffers, [codes for codes, _ in encoded] + [scale for _, scale in encoded], count)


def codes_of(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [..., D] int8 and scales [...] float16 of rows [..., D]."""
    scale = (rows.float().abs().amax(-1) / 127).to(torch.float16)
    # A vector of zeros has scale 0, and codes of 0 / 0 would be whatever a device makes of NaN.
    step = scale.float().clamp_min(SMALLEST_STEP).unsqueeze(-1)
    return (rows.float() / step).round().clamp(-127, 127).to(torch.int8), scale


def note_finite(rows: Sequence[torch.Tensor], total: torch.Tensor) -> None:
    """Add NaN to `total` [] if a value is NaN or infinite, else 0."""
    for each in rows:
        # 0 for every finite sum; NaN for the others, which stays, whatever is added later.
        total += each.detach().sum(dtype=torch.float32) * 0.0


def _is_read_at_once(count: torch.Tensor) -> bool:
    """Whether the host need not wait to know how many tokens there are."""
    return count.device.type == "cpu"
