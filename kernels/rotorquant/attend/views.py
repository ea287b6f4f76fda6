"""What a layer hands to the attention function in place of key and value tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch

from rotorquant.exceptions import CacheStateError, CapacityError
from rotorquant.ops.attend import Part, merge

__all__ = [
    "Handle",
    "LayerView",
    "Queries",
    "attend_in_blocks",
    "check_capacity",
    "check_chunk",
    "handles",
]

_BLOCK_TOKENS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """The queries of the last T tokens of a sequence.

    Attributes:
        query: [B, heads, T, D].
        scaling: factor of the scores.
        key_mask: [B, length] bool over the whole sequence, False where it is padding.
        blocks: [B, length] image numbers, -1 for text; None without a picture in the chunk.
    """

    query: torch.Tensor
    scaling: float
    key_mask: torch.Tensor | None = None
    blocks: torch.Tensor | None = None


class LayerView(Protocol):
    """The keys and values of one layer during one forward pass."""

    def attend(self, queries: Queries) -> torch.Tensor:
        """Attention output [B, T, heads, D] in the query's dtype."""
        ...

    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, kv_heads, N, D] that the layer holds now, dequantized, in order."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Handle:
    """One of the two halves of a view, in place of the key or the value tensor.

    Attention uses the view. A caller that wants a tensor, as a drafter that shares keys and values
    does, takes a slice, which is dequantized from what the layer stores at that time.

    Attributes:
        view: of the layer.
        half: 0 for keys, 1 for values.
    """

    view: LayerView
    half: int

    @property
    def shape(self) -> NoReturn:
        """Attention that expects a tensor reads its shape first, so this is where it is refused."""
        raise CacheStateError(
            "this attention cannot read a packed cache: the cache was made for another model; make "
            "one for this model, which sets its attention"
        )

    def __getitem__(self, index: Any) -> torch.Tensor:
        """`index` of the tensor [B, kv_heads, N, D]."""
        return self.view.stored()[self.half][index]

    def to(self, *args: Any, **kwargs: Any) -> Handle:
        """Itself: the layer's storage stays on its device."""
        # transformers' Gemma 4 assistant moves what it shares to its own device.
        return self


def handles(view: LayerView) -> tuple[Handle, Handle]:
    """The two handles that stand for K and for V."""
    return Handle(view, 0), Handle(view, 1)


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
    # In blocks, so that the float32 copies stay small however long the chunk is.
    for start in range(0, length, _BLOCK_TOKENS):
        block = query[:, :, start : start + _BLOCK_TOKENS].float()
        block = block if scaling == 1.0 else block * scaling  # Gemma 4 has 1: no copy
        done = merge(parts(block.unflatten(1, (kv_heads, -1)), start))
        output[:, start : start + _BLOCK_TOKENS] = done.flatten(1, 2).transpose(1, 2)
    return output


def check_capacity(length: int, tokens: int, max_tokens: int | None) -> None:
    """Refuse a chunk that does not fit.

    Raises:
        CapacityError: `tokens` after `length` exceed `max_tokens`.
    """
    if max_tokens is not None and length + tokens > max_tokens:
        raise CapacityError(
            f"{tokens} tokens after {length} exceed max_tokens = {max_tokens}; make the cache with "
            "a larger max_tokens, or None"
        )


def check_chunk(key: torch.Tensor, value: torch.Tensor, stored: torch.Tensor | None) -> None:
    """Refuse a chunk of another form than what is stored.

    Args:
        key, value: [B, H, T, D].
        stored: [B, H, any, D] of the layer, or None while it is empty.

    Raises:
        CacheStateError: its batch size, heads, head size or dtype is not the cache's.
    """
    if stored is None:
        return
    if key.shape[0] != stored.shape[0]:
        raise CacheStateError(
            f"the batch has {key.shape[0]} rows and the cache holds {stored.shape[0]}; reset() the "
            "cache or make another one"
        )
    given, expected = (
        (key.dtype, value.dtype, *key.shape[1::2]),
        (*[stored.dtype] * 2, *stored.shape[1::2]),
    )
    if given != expected:
        raise CacheStateError(
            f"a chunk of dtypes, heads and head size {given} does not fit a cache with {expected}; "
            "each model needs a cache of its own"
        )
