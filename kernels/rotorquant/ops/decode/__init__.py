"""One pass of a decode step over everything that a layer holds: packed rows and exact tokens."""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.attend.launch import HEAD_DIMS, pairs_limit
from rotorquant.ops.decode import reference
from rotorquant.ops.decode.reference import Decoded, Exact, RowQueries, Stored

__all__ = ["STEPS_LIMIT", "Decoded", "Exact", "RowQueries", "Stored", "decode", "serves"]

# What one launch stores, too (`ops.append`, `layers.buffers.STEP_TOKENS`).
STEPS_LIMIT = 16
SHARED_BYTES = 72 * 1024  # the most that a launch takes (`tests/compile/proofs.txt`)

_kernel = dispatch.find_kernel(__name__)


def serves(vectors: torch.Tensor, pairs: int, window: int | None = None) -> bool:
    """Whether a kernel takes a step of `vectors` [B, any, T, D], queries or new keys.

    Without it `decode` gives the same by the reference, which is not made for speed.

    Args:
        vectors: of the step.
        pairs: rotary pairs that are turned when read.
        window: of the layer, or None.
    """
    steps, head_dim = vectors.shape[-2:]
    return (
        _kernel is not None
        and dispatch.on_gpu(vectors)
        and dispatch.has_shared(vectors, SHARED_BYTES)
        and head_dim in HEAD_DIMS
        and steps <= min(STEPS_LIMIT, window or STEPS_LIMIT)
        and pairs <= pairs_limit(head_dim)
    )


@dispatch.on_one_device
def decode(
    near: RowQueries,
    first: Exact,
    last: Exact,
    counts: torch.Tensor,
    steps: int,
    window: int | None = None,
    key_mask: torch.Tensor | None = None,
    far: RowQueries | None = None,
    stored: Stored | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Decoded:
    """Attention of the last `steps` tokens over a layer's tokens (`reference.py` has the rule).

    Args:
        near: queries as they meet exact rows.
        first, last: exact tokens, before and behind the packed ones.
        counts: [3] integers, where the queries are: how many first, packed and last tokens there
            are, so that a captured graph serves every step. With a window the rows of `first` are
            all in use, and the last number counts the tokens of the whole sequence.
        steps: 1 to 16, new tokens, which the layer holds already.
        window: slots of the ring `last`; tokens seen by a query, itself included; or None.
        key_mask: [B, any] bool over the tokens in order, False where padding.
        far, stored: queries as they meet packed rows, and the rows; or None.
        dtype: of the result where there are no packed rows.
    """
    batch, heads, rows, head_dim = near.query.shape
    key = last.key.primary
    if key.shape[:2] != (batch, heads) or key.shape[-1] != head_dim or rows % steps:
        raise ValueError(
            f"{steps} steps of query {tuple(near.query.shape)} do not fit keys {tuple(key.shape)}"
        )
    if (far is None) != (stored is None):
        raise ValueError("packed rows need queries of their own, and these need packed rows")
    arguments = near, first, last, counts, steps, window, key_mask, far, stored
    if _kernel is not None and dispatch.on_gpu(key) and dispatch.has_shared(key, SHARED_BYTES):
        decoded: Decoded = _kernel.decode(*arguments, dtype)
        return decoded
    decoded = reference.decode(*arguments)
    return decoded if far is not None else decoded._replace(near=decoded.near.to(dtype))
