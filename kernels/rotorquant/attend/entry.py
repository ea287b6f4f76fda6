"""Attention for transformers: views instead of key and value tensors, and no masks.

`register` adds two entries under the name `rotorquant`: an attention function, and a mask function
that builds nothing but hands the padding, where there is any, through as [B, 1, 1, length].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from rotorquant.attend.prompt_chunk import attend_keys
from rotorquant.attend.views import Queries
from rotorquant.exceptions import CacheStateError, UnsupportedModelError

__all__ = ["ATTENTION_NAME", "attention", "padding_mask", "register"]

ATTENTION_NAME = "rotorquant"


def register() -> None:
    """Make `rotorquant` a known attention implementation; repeated calls change nothing."""
    AttentionInterface.register(ATTENTION_NAME, attention)
    AttentionMaskInterface.register(ATTENTION_NAME, padding_mask)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: Any,
    value: Any,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    rotorquant_blocks: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a transformers layer; it has no gradients.

    Args:
        module: the attention module.
        query: [B, heads, T, D].
        key, value: the handles of a `RotorQuantCache`. With any other cache that grows, or with
            none, tensors [B, kv_heads, N, D] that end with the query's tokens.
        attention_mask: from `padding_mask`.
        scaling: factor of the scores; 1 / sqrt(D) by default.
        dropout: must be 0.
        sliding_window: tokens seen by a query, itself included, or None for all.
        rotorquant_blocks: [B, length] image numbers, -1 for text (`picture_blocks.py`).

    Returns:
        [B, T, heads, D] in the query's dtype, and None for the weights.

    Raises:
        UnsupportedModelError: the layer asks for dropout, soft-capped scores or attention sinks.
        CacheStateError: a mask of a shape other than `padding_mask` gives.
    """
    # Names under which models hand over what changes the scores: ignoring it would go unnoticed.
    unknown = [name for name in ("softcap", "s_aux", "sinks") if kwargs.get(name) is not None]
    if unknown or dropout:
        raise UnsupportedModelError(
            f"rotorquant attention has no {', '.join(unknown) or 'dropout'}; use another "
            "attn_implementation for this"
        )
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    queries = Queries(query, factor, _key_mask(attention_mask), rotorquant_blocks)
    output: torch.Tensor
    # Kernels know no gradients; where they are requested the backward pass says so.
    with torch.no_grad():
        if isinstance(key, torch.Tensor):
            output = _attend_tensors(queries, key, value, sliding_window)
        else:
            output = key.view.attend(queries)
    if torch.is_grad_enabled():
        output = _ForwardOnly.apply(output, query, key, value)  # type: ignore[no-untyped-call]
    return output, None


class _ForwardOnly(torch.autograd.Function):
    """Raises when gradients are requested, which the kernels would leave out silently."""

    @staticmethod
    # pyrefly: ignore [bad-override]
    def forward(ctx: Any, output: torch.Tensor, *sources: Any) -> torch.Tensor:
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise UnsupportedModelError(
            "rotorquant attention has no gradients; model.set_attn_implementation('sdpa') before "
            "training"
        )


def padding_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor | None:
    """The padding [B, 1, 1, length] of the sequence so far, False where padded; None without any.

    Raises:
        UnsupportedModelError: the cache has allocated tokens that do not exist yet (static caches).
        CacheStateError: `attention_mask` does not cover the cached tokens.
    """
    length = int(q_offset) + q_length
    # A static cache reports its whole capacity as keys.
    if int(kv_offset) + kv_length > length:
        raise UnsupportedModelError(
            "rotorquant attention serves no static cache; model.set_attn_implementation('sdpa') "
            "leads back to it"
        )
    if attention_mask is None:
        return None
    if attention_mask.shape[-1] < length:
        raise CacheStateError(
            f"attention_mask has {attention_mask.shape[-1]} tokens; it needs all {length}, those "
            "in the cache included"
        )
    # Without padding there is no mask at all, so that attention can take its faster path.
    mask = attention_mask[:, :length].to(torch.bool)
    return None if bool(mask.all()) else mask[:, None, None, :]


def _attend_tensors(
    queries: Queries, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    """Attention without a `RotorQuantCache`: the keys are the last ones of the sequence.

    Pictures see themselves in sliding layers only.
    """
    mask, blocks = (
        None if each is None else each[:, each.shape[1] - key.shape[2] :]
        for each in (queries.key_mask, None if window is None else queries.blocks)
    )
    return attend_keys(Queries(queries.query, queries.scaling, mask, blocks), key, value, window)


def _key_mask(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    if attention_mask is None:
        return None
    if attention_mask.dtype != torch.bool or attention_mask.shape[1:3] != (1, 1):
        raise CacheStateError(
            f"attention_mask of shape {tuple(attention_mask.shape)} is no padding mask; give a "
            "mask [batch, tokens], or use another attn_implementation for a mask of your own"
        )
    return attention_mask[:, 0, 0]
