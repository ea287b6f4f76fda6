"""A decode step of one layer in a single pass: what `ops.decode` asks for, and its answer.

Nothing here waits for the device: the lengths that the kernel reads lie there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rotorquant.codec import Codec, RawCodec
from rotorquant.global_store import GlobalStore
from rotorquant.ops.attend import Rows
from rotorquant.ops.decode import Exact, Reading, Stored, decode
from rotorquant.ring import Ring
from rotorquant.tied import TiedKey

__all__ = ["decode_global", "decode_ring"]


def decode_ring(
    query: torch.Tensor, scaling: float, ring: Ring, old: Exact, key_mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention [B, T, heads, D] of a step that the ring holds.

    Args:
        query: [B, heads, T, D].
        scaling: factor of the scores.
        ring: of the layer, with the step's own tokens.
        old: rows that these have pushed out.
        key_mask: [B, length] bool, False where a token is padding; or None.
    """
    last = ring.exact()
    grouped = _grouped(query, scaling, last.key)
    steps = query.shape[2]
    done = decode(Reading(grouped), old, last, ring.counts, steps, ring.window, key_mask)
    return _output(done.near, query)


def decode_global(
    query: torch.Tensor,
    scaling: float,
    store: GlobalStore,
    tie: TiedKey | None,
    positions: torch.Tensor | None,
    key_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Attention [B, T, heads, D] of a step that the store holds; see `decode_ring`.

    Args:
        query, scaling, key_mask: as there.
        store: of the layer, whose rows are scored as they lie (`reading.in_place`).
        tie: how K follows from V; None with rows of K and of V.
        positions: [B, room] integers, of all tokens; read with a tie.
    """
    first, last = (_exact(buffer.whole()) for buffer in (store.sink, store.tail))
    grouped, steps = _grouped(query, scaling, last.key), query.shape[2]
    plain = [RawCodec(query.shape[-1], query.device)]
    near = _reading(grouped, plain, tie, positions, last.key.primary.dtype)
    if not store.packed.capacity:
        done = decode(near, first, last, store.counts, steps, None, key_mask)
        return _output(done.near, query)
    codecs, rows = store.packed.codecs, store.packed.whole_streams()
    value = rows[1] if len(rows) == 2 else None
    stored = Stored(rows[0], value, codecs[0].table, codecs[-1].table)
    far = _reading(grouped, codecs, tie, positions, last.key.primary.dtype)
    done = decode(near, first, last, store.counts, steps, None, key_mask, far, stored)
    assert done.far is not None and done.share is not None
    output = done.near + codecs[-1].from_stored(done.far)
    if codecs[-1].offset is not None:
        output = output + done.share * codecs[-1].offset
    return _output(output, query)


def _reading(
    query: torch.Tensor,
    codecs: Sequence[Codec],
    tie: TiedKey | None,
    positions: torch.Tensor | None,
    dtype: torch.dtype,
) -> Reading:
    """Queries [B, H, R, D] as they meet rows of the first codec."""
    codec = codecs[0]
    if tie is not None and positions is not None:
        return Reading(*tie.stored_query(query, codec, positions, dtype))
    shift = None if codec.offset is None else query @ codec.offset.mT
    return Reading(codec.to_stored(query), None, shift)


def _exact(streams: list[torch.Tensor]) -> Exact:
    rows = [Rows(stream, None, None) for stream in streams]
    return Exact(rows[0], rows[1] if len(rows) == 2 else None)


def _grouped(query: torch.Tensor, scaling: float, key: Rows) -> torch.Tensor:
    """[B, H, G T, D] float32 and scaled."""
    scaled = query.float() if scaling == 1.0 else query.float() * scaling
    batch, _, _, head_dim = query.shape
    heads = key.primary.shape[1]
    return scaled.reshape(batch, heads, -1, head_dim)


def _output(rows: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    batch, heads, steps, head_dim = query.shape
    return rows.reshape(batch, heads, steps, head_dim).transpose(1, 2).to(query.dtype)
