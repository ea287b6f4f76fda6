"""Attention over packed and over exact keys, in parts that merge into one softmax.

A part is what an online softmax has gathered over some of the keys. Every call visits its keys in
tiles; no tensor has more than `reference.SCORE_BUDGET` scores, and no mask is longer than a tile.
"""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.attend import reference
from rotorquant.ops.attend.launch import HEAD_DIMS, ROWS_LIMIT, pairs_limit
from rotorquant.ops.attend.reference import Part, Rope, Rows, join

__all__ = ["Part", "Rope", "Rows", "attend_exact", "attend_packed", "join", "merge"]

# What a launch takes on sm_75, the most of all cards; a card with less has no room for it
SHARED_BYTES = 88 * 1024

_kernel = dispatch.find_kernel(__name__)


def attend_exact(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_start: int,
    window: int | None = None,
    key_mask: torch.Tensor | None = None,
    blocks: torch.Tensor | None = None,
) -> Part:
    """Causal attention of the queries over exact keys, in float32.

    Query t stands at key index query_start + t and sees key j when

        (j <= query_start + t  or  both lie in one block)  and  j > query_start + t - window.

    Args:
        query: [B, H, G, T, D] float32, already scaled; G query heads share a key head. What a
            call keeps in float32 grows with T, so long chunks are best given in blocks.
        key, value: [B, H, N, D] of any float dtype.
        query_start: index of the first query among the keys; query_start + T <= N.
        window: how many keys a query sees, itself included; None for all.
        key_mask: [B, N] bool, False where a key is padding.
        blocks: [B, N] integers; equal ones from 0 up see each other, -1 is causal.
    """
    batch, heads, _, length, head_dim = query.shape
    if key.shape[:2] != (batch, heads) or key.shape[-1] != head_dim or key.shape != value.shape:
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)} and value {tuple(value.shape)} "
            "do not belong together"
        )
    if query_start < 0 or query_start + length > key.shape[2]:
        raise ValueError(f"{length} queries from {query_start} on exceed {key.shape[2]} keys")
    return reference.attend_exact(query, key, value, query_start, window, key_mask, blocks)


@dispatch.on_one_device
def attend_packed(
    query: torch.Tensor,
    key: Rows,
    value: Rows | None,
    table: torch.Tensor | None,
    rope: Rope | None = None,
    key_mask: torch.Tensor | None = None,
    value_table: torch.Tensor | None = None,
) -> Part:
    """Attention of the queries over packed keys, all of which every query sees.

    Args:
        query: [B, H, R, D] float32, scaled, rotated and in storage order.
        key: packed rows of N keys; with `value` None they are the values, too.
        value: packed rows of N values, or None.
        table: from `ops.dequantize.decode_table`; None when rows are plain 16- or 32-bit values.
        rope: how scores follow from rows stored before their rotary embedding, or None.
        key_mask: [B, N] bool, False where a key is padding.
        value_table: decodes `value` where its width is not the keys'.
    """
    if query.shape[:2] != key.primary.shape[:2]:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.primary.shape)} differ")
    if _kernel is not None and dispatch.on_gpu(query) and _fits(query, key, value, table, rope):
        part: Part = _kernel.attend_packed(query, key, value, table, rope, key_mask, value_table)
        return part
    return reference.attend_packed(query, key, value, table, rope, key_mask, value_table)


def merge(parts: list[Part]) -> torch.Tensor:
    """The attention output [..., D] float32 of all parts; 0 for a query that saw no key."""
    return reference.merge(parts)


def _fits(
    query: torch.Tensor,
    key: Rows,
    value: Rows | None,
    table: torch.Tensor | None,
    rope: Rope | None,
) -> bool:
    """Whether the kernel takes this: a few queries, and not more rotary pairs than it can turn."""
    rows, head_dim = query.shape[2:]
    fits = rope is None or len(rope.first) <= pairs_limit(head_dim)
    fits = fits and dispatch.has_shared(query, SHARED_BYTES)
    # Scales belong to packed rows, and these to a table
    whole = [r is None or (r.scale is None or table is not None) for r in (key, value)]
    return fits and all(whole) and head_dim in HEAD_DIMS and rows <= ROWS_LIMIT
