"""Specification of the chunk op: softmax(scaling q k) v over the keys a query sees, in float32.

Query t stands at key index i = start + t and sees key j when

    i - window < j <= max(i, reach_t)   and   j is not masked.

A part is that of `ops/attend`: top, mass and total, which parts over other keys can be added to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from rotorquant.ops.attend import Part, join, merge
from rotorquant.ops.attend.reference import EMPTY_TOP

__all__ = ["Rules", "chunk_output", "chunk_part", "reach_of"]


class Rules(NamedTuple):
    """Which keys a query sees.

    start: key index of the first query; the number of keys, or more, where all keys are older.
    window: how many keys a query sees at most up to itself; None for all.
    reach: [B, T] integers, the last key that a query sees where that is behind it, or None.
    key_mask: [B, N] bool, False where a key is padding, or None.
    """

    start: int
    window: int | None = None
    reach: torch.Tensor | None = None
    key_mask: torch.Tensor | None = None


def chunk_output(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    rules: Rules,
    before: Part | None,
) -> torch.Tensor:
    """Attention output [B, T, heads, D] in the query's dtype."""
    merged = merge([chunk_part(query, key, value, scaling, rules, before)])
    return merged.flatten(1, 2).transpose(1, 2).to(query.dtype)


def chunk_part(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    rules: Rules,
    before: Part | None,
) -> Part:
    """The part [B, H, G, T, ...] of these keys and of those `before`."""
    # [B, H, G, T, N]
    grouped = query.float().unflatten(1, (key.shape[1], -1))
    scores = scaling * grouped @ key.float().mT.unsqueeze(2)
    scores = scores.masked_fill(~_visible(query, key, rules), -torch.inf)
    empty = scores.new_full((*scores.shape[:-1], 1), EMPTY_TOP)
    top = torch.cat((empty, scores), dim=-1).amax(-1, keepdim=True)
    weight = torch.exp(scores - top)
    part = Part(top, weight.sum(-1, keepdim=True), weight @ value.float().unsqueeze(2))
    return part if before is None else join(before, part)


def reach_of(blocks: torch.Tensor) -> torch.Tensor:
    """The last index [B, N] int32 of the block of each token; its own where it has none."""
    length = blocks.shape[1]
    index = torch.arange(length, device=blocks.device)
    ends = torch.ones_like(blocks, dtype=torch.bool)
    # A token of text has the number of its neighbours, -1, and still ends at itself.
    ends[:, :-1] = (blocks[:, 1:] != blocks[:, :-1]) | (blocks[:, :-1] < 0)
    last = torch.where(ends, index, length - 1)
    # The nearest end at or behind each token.
    return last.flip(1).cummin(1).values.flip(1).to(torch.int32)


def _visible(query: torch.Tensor, key: torch.Tensor, rules: Rules) -> torch.Tensor:
    """Bool [B or 1, 1, 1, T, N]."""
    at_key = torch.arange(key.shape[2], device=key.device)
    at_query = rules.start + torch.arange(query.shape[2], device=key.device)[None, :, None]
    last = at_query if rules.reach is None else torch.maximum(at_query, rules.reach.unsqueeze(-1))
    seen = at_key <= last
    if rules.window is not None:
        seen = seen & (at_key > at_query - rules.window)
    if rules.key_mask is not None:
        seen = seen & rules.key_mask.unsqueeze(1)
    return seen[:, None, None]
