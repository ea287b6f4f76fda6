"""Attention of a chunk of queries over plain keys and values, the way to read a prompt.

Which key a query sees follows from a few integers, so no mask is ever built. What has been gathered
over other keys goes in as a part, so a long history is taken in pieces.
"""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.attend import Part
from rotorquant.ops.chunk import reference
from rotorquant.ops.chunk.launch import HEAD_DIMS
from rotorquant.ops.chunk.reference import Rules

__all__ = ["Rules", "chunk_output", "chunk_part", "has_kernel", "reach_of"]

SHARED_BYTES = 99 * 1024  # what every launch but those for Hopper and Blackwell stays below
KINDS = (torch.bfloat16, torch.float16)

_kernel = dispatch.find_kernel(__name__)


@dispatch.on_one_device
def chunk_output(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    rules: Rules,
    before: Part | None = None,
) -> torch.Tensor:
    """Attention output [B, T, heads, D] in the query's dtype; 0 for a query that saw no key.

    Args:
        query: [B, heads, T, D]; the G = heads / H neighbours share a key head.
        key, value: [B, H, N, D] of the query's dtype.
        scaling: factor of the scores.
        rules: which keys a query sees.
        before: the part [B, H, G, T, ...] of other keys, of which every query saw what it may.
    """
    _check(query, key, value, rules, before)
    if has_kernel(query, key) and _kernel is not None:
        output: torch.Tensor = _kernel.attend(query, key, value, scaling, rules, before, True)
        return output
    return reference.chunk_output(query, key, value, scaling, rules, before)


@dispatch.on_one_device
def chunk_part(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    rules: Rules,
    before: Part | None = None,
) -> Part:
    """The part [B, H, G, T, ...] of these keys and of those `before`; see `chunk_output`."""
    _check(query, key, value, rules, before)
    if has_kernel(query, key) and _kernel is not None:
        part: Part = _kernel.attend(query, key, value, scaling, rules, before, False)
        return part
    return reference.chunk_part(query, key, value, scaling, rules, before)


def has_kernel(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether the kernel takes these: 16-bit values of one dtype on a GPU with the room."""
    fits = query.dtype == key.dtype and query.dtype in KINDS and query.shape[-1] in HEAD_DIMS
    if _kernel is None or not dispatch.on_gpu(query):
        return False
    return fits and dispatch.has_shared(query, SHARED_BYTES)


def reach_of(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The last key [B, N - start] int32 that each query from `start` on sees.

    Args:
        blocks: [B, N] integers: neighbours with an equal one from 0 up see each other, -1 is
            causal.
        start: index of the first query.
    """
    # Apart, so that it begins where a kernel can read it like any other tensor
    return reference.reach_of(blocks)[:, start:].clone()


def _check(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rules: Rules,
    before: Part | None,
) -> None:
    batch, heads, length, head_dim = query.shape
    given = tuple(query.shape), tuple(key.shape), tuple(value.shape)
    if (
        key.shape != value.shape
        or (key.shape[0], key.shape[-1]) != (batch, head_dim)
        or heads % key.shape[1]
    ):
        raise ValueError(f"query, key and value of shapes {given} do not belong together")
    grid = batch, key.shape[1], heads // key.shape[1], length
    if before is not None and before.total.shape != (*grid, head_dim):
        raise ValueError(f"a part {tuple(before.total.shape)} does not belong to {given[:2]}")
    if rules.start < 0 or (rules.window is not None and rules.window < 1):
        raise ValueError(f"start {rules.start} and window {rules.window} must be 0 and 1 at least")
    if rules.reach is not None and rules.reach.shape != (batch, length):
        raise ValueError(f"reach {tuple(rules.reach.shape)} is not of {batch} x {length} queries")
    if rules.key_mask is not None and rules.key_mask.shape != (batch, key.shape[2]):
        raise ValueError(f"key_mask {tuple(rules.key_mask.shape)} is not of {given[1]}")
