"""Which tokens belong to which picture, for layers in which a picture's tokens see each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rotorquant.exceptions import CacheStateError

__all__ = ["add_picture_hook", "picture_blocks"]

_MARK = "_rotorquant_follows_images"


def add_picture_hook(host: nn.Module) -> None:
    """Let every forward pass of `host` pass on to its layers the picture of each token.

    A forward pre-hook turns `mm_token_type_ids` into the keyword `rotorquant_blocks`, which
    transformers passes on to the attention function. It stays with the model, because the model's
    attention stays `rotorquant`, and is added once.
    """
    if not getattr(host, _MARK, False):
        host.register_forward_pre_hook(_add_blocks, with_kwargs=True)
        setattr(host, _MARK, True)


def picture_blocks(types: torch.Tensor, past: int, tokens: int) -> torch.Tensor | None:
    """Picture numbers [B, past + tokens] on the CPU, -1 for text; None if no picture is there.

    Args:
        types: [B, N] from the first token of the sequence on; 1 and 2 are pictures and videos.
        past: tokens before the chunk.
        tokens: of the chunk.

    Raises:
        CacheStateError: `types` covers the chunk alone, or the chunk begins or ends in a picture.
    """
    length = past + tokens
    types = types.cpu()  # one wait on a GPU, where every question below would be another
    seen = (types == 1) | (types == 2)
    if types.shape[-1] < length:
        if bool(seen.any()):
            raise CacheStateError(
                f"mm_token_type_ids has {types.shape[-1]} tokens; with a picture it needs all "
                f"{length} from the first token of the sequence on"
            )
        return None
    if not bool(seen[:, past:length].any()):
        return None
    # A split picture would see only the half of itself that is in the chunk.
    for edge in (past, length):
        if 0 < edge < types.shape[-1] and bool((seen[:, edge - 1] & seen[:, edge]).any()):
            raise CacheStateError(f"a chunk boundary at token {edge} splits a picture")
    # Neighbouring picture tokens belong to one picture: the processor puts text between pictures.
    starts = seen.clone()
    starts[:, 1:] &= ~seen[:, :-1]
    numbers = starts.int().cumsum(-1) - 1
    return torch.where(seen, numbers, -1)[:, :length]


def _add_blocks(
    _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    types = kwargs.get("mm_token_type_ids")
    tokens = kwargs.get("input_ids", args[0] if args else None)
    if tokens is None:
        tokens = kwargs.get("inputs_embeds")
    if types is None or tokens is None:
        return args, kwargs
    past = kwargs.get("past_key_values")
    blocks = picture_blocks(types, 0 if past is None else past.get_seq_length(), tokens.shape[1])
    if blocks is not None:
        kwargs = {**kwargs, "rotorquant_blocks": blocks.to(tokens.device, non_blocking=True)}
    return args, kwargs
