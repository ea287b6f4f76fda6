"""Attention for training: causal without masks, sliding layers in blocks, pictures both ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

__all__ = [
    "TRAINING_ATTENTION",
    "conversation_masks",
    "register_training_attention",
    "segment_positions",
]

TRAINING_ATTENTION = "pocket_training"


def register_training_attention() -> None:
    """Make `TRAINING_ATTENTION` known to transformers."""
    AttentionInterface.register(TRAINING_ATTENTION, _attend)


def conversation_masks(segments: Tensor, is_image: Tensor, window: int) -> dict[str, Tensor | None]:
    """Gemma 4's masks for rows of several conversations, each of which sees itself alone.

    `segments` [rows, tokens] numbers the conversations, -1 is padding; `is_image` [rows, tokens]
    marks soft tokens. Those of one picture see each other in both directions in the sliding layers
    only; pictures are parted by the markers around them.
    """
    tokens = segments.shape[1]
    places = torch.arange(tokens, device=segments.device)
    same = (segments[:, :, None] == segments[:, None, :])[:, None]
    # Padding (-1) sees itself: a row that sees nothing would make the softmax NaN.
    causal = (places[None, :] <= places[:, None])[None, None] & same
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    picture = torch.where(is_image, starts.cumsum(1), 0)
    both_ways = (is_image[:, :, None] & (picture[:, :, None] == picture[:, None, :]))[:, None]
    near = (places[None, :] > places[:, None] - window)[None, None]
    return {"full_attention": causal, "sliding_attention": (causal | both_ways) & near}


def segment_positions(segments: Tensor) -> Tensor:
    """Positions [rows, tokens] that start at 0 in every conversation of a row."""
    places = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    fresh = torch.ones_like(segments, dtype=torch.bool)
    fresh[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return places - torch.where(fresh, places, 0).cummax(1).values


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[rows, heads, tokens, dim] to [rows, tokens, heads, dim]; a given mask wins."""
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    tokens = query.shape[2]
    if attention_mask is None and sliding_window is not None and tokens > sliding_window:
        return _sliding(query, key, value, sliding_window, scaling).transpose(1, 2), None
    if attention_mask is None:
        attention_mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    out = _softmax_attention(query, key, value, attention_mask, scaling)
    return out.transpose(1, 2), None


def _softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scaling: float
) -> Tensor:
    # Written out, because compiled it takes half the time of torch's fused CPU kernel backwards.
    scores = query @ key.transpose(-1, -2) * scaling
    weights = torch.softmax(scores.float().masked_fill(~seen, -torch.inf), dim=-1)
    return weights.to(value.dtype) @ value


def _sliding(query: Tensor, key: Tensor, value: Tensor, window: int, scaling: float) -> Tensor:
    """Blocks of one window: each sees itself and the one before; tokens are whole windows."""
    batch, heads, tokens, dim = query.shape
    blocks = tokens // window
    query = query.reshape(batch, heads * blocks, window, dim)
    key, value = (_with_previous(x, window) for x in (key, value))
    rows = torch.arange(window, device=query.device)[:, None] + window
    columns = torch.arange(2 * window, device=query.device)[None, :]
    seen = (columns <= rows) & (columns > rows - window)
    first = seen & (columns >= window)
    mask = torch.cat([first[None], seen[None].expand(blocks - 1, -1, -1)]).repeat(heads, 1, 1)
    out = _softmax_attention(query, key, value, mask[None], scaling)
    return out.reshape(batch, heads, tokens, dim)


def _with_previous(x: Tensor, window: int) -> Tensor:
    batch, heads, tokens, dim = x.shape
    blocks = x.reshape(batch, heads, tokens // window, window, dim)
    previous = F.pad(blocks[:, :, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([previous, blocks], dim=3).reshape(batch, -1, 2 * window, dim)
