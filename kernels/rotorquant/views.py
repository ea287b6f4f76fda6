"""What a layer hands to the attention function in place of key and value tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from rotorquant.errors import CacheStateError, CapacityError, NonFiniteError
from rotorquant.ops.attend import Part, merge

__all__ = ["LayerView", "attend_in_blocks", "check_chunk", "check_room"]

_BLOCK_TOKENS = 1024


class LayerView(Protocol):
    """The keys and values of one layer during one forward pass."""

    def attend(
        self,
        query: torch.Tensor,
        scaling: float,
        key_mask: torch.Tensor | None,
        blocks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention output [B, T, heads, D] in the query's dtype.

        Args:
            query: [B, heads, T, D], the last T tokens of the sequence.
            scaling: factor of the scores.
            key_mask: [B, length] bool over the whole sequence, False where it is padding.
            blocks: [B, length] image numbers, -1 for text; None without a picture in the chunk.
        """
        ...

    def to(self, *args: Any, **kwargs: Any) -> LayerView:
        """Itself: the layer's storage stays on its device."""
        ...


def attend_in_blocks(
    query: torch.Tensor,
    kv_heads: int,
    scaling: float,
    parts: Callable[[torch.Tensor, int], list[Part]],
) -> torch.Tensor:
    """Attention output [B, T, heads, D] in the query's dtype, with a float32 workspace per block.

    Args:
        query: [B, heads, T, D].
        kv_heads: key heads, each shared by heads / kv_heads query heads.
        scaling: factor of the scores.
        parts: gives the parts of a block of scaled float32 queries [B, kv_heads, group, t, D] and
            the index of its first token in the chunk.
    """
    batch, heads, length, head_dim = query.shape
    output = query.new_empty(batch, length, heads, head_dim)
    for start in range(0, length, _BLOCK_TOKENS):
        block = query[:, :, start : start + _BLOCK_TOKENS].float()
        block = block if scaling == 1.0 else block * scaling
        done = merge(parts(block.unflatten(1, (kv_heads, -1)), start))
        output[:, start : start + _BLOCK_TOKENS] = done.flatten(1, 2).transpose(1, 2)
    return output


def check_room(length: int, tokens: int, max_tokens: int | None) -> None:
    """Refuse a chunk that does not fit.

    Raises:
        CapacityError: `tokens` after `length` exceed `max_tokens`.
    """
    if max_tokens is not None and length + tokens > max_tokens:
        raise CapacityError(
            f"{tokens} tokens after {length} exceed max_tokens = {max_tokens}; make the cache with "
            "a larger max_tokens, or None"
        )


def check_chunk(key: torch.Tensor, value: torch.Tensor, batch: int | None) -> None:
    """Refuse a chunk that cannot be stored.

    Raises:
        NonFiniteError: it holds NaN or infinity.
        CacheStateError: its batch size is not the cache's.
    """
    if batch is not None and key.shape[0] != batch:
        raise CacheStateError(
            f"the batch has {key.shape[0]} rows and the cache holds {batch}; reset() the cache "
            "or make another one"
        )
    # One float32 sum per tensor: any NaN or infinity survives it.
    sums = key.sum(dtype=torch.float32) + value.sum(dtype=torch.float32)
    if not bool(sums.isfinite()):
        raise NonFiniteError("keys or values hold NaN or infinity; nothing was stored")
