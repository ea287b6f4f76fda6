"""Head norms and rotary embedding of queries, keys and values, in one launch."""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.heads import reference
from rotorquant.ops.heads.reference import Stream

__all__ = ["Stream", "norm_heads"]

_kernel = dispatch.find_kernel(__name__)


@dispatch.on_one_device
def norm_heads(
    streams: list[Stream], cos: torch.Tensor, sin: torch.Tensor, eps: float
) -> list[torch.Tensor]:
    """Every stream normed, and turned where it asks for it, [B, T, heads, D].

    Args:
        streams: one to three, of one B, T, D and dtype.
        cos, sin: [B or 1, T, D] of the same dtype.
        eps: of the norms.
    """
    if not 1 <= len(streams) <= 3:
        raise ValueError(f"{len(streams)} streams; there can be one to three")
    like = streams[0].rows
    batch, tokens, _, head_dim = like.shape
    for rows in (stream.rows for stream in streams):
        if (*rows.shape[:2], rows.shape[-1]) != (batch, tokens, head_dim) or head_dim % 2:
            raise ValueError(f"rows {tuple(rows.shape)} do not fit {tuple(like.shape)}")
    if cos.shape[1:] != (tokens, head_dim) or cos.shape != sin.shape:
        raise ValueError(f"cos {tuple(cos.shape)} does not fit rows {tuple(like.shape)}")
    if _kernel is not None and dispatch.on_gpu(like) and like.numel() > 0:
        results: list[torch.Tensor] = _kernel.norm_heads(streams, cos, sin, eps)
        return results
    return [reference.norm_heads(stream, cos, sin, eps) for stream in streams]
