"""Attention over the packed tokens of a global layer, in the space of the rows where that is exact.

Rows are scored as they lie where K and V are stored apart, or where the rotation keeps the pairs
that the rotary embedding turns. Elsewhere a tile of rows is decoded, K = RoPE(w V) is rebuilt from
it, and the tile is scored as plain values: more work, the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rotorquant.codec import Codec
from rotorquant.ops.attend import Part, Rows, attend_packed
from rotorquant.tied import TiedKey

__all__ = ["attend_rows", "cut", "in_place"]

_TILE_TOKENS = 4096


def in_place(codecs: Sequence[Codec], tie: TiedKey | None) -> bool:
    """Whether rows are scored as they lie."""
    kept = [codec.pairs for codec in codecs]
    return None not in kept and (tie is None or tie.pairs <= (kept[0] or 0))


def attend_rows(
    query: torch.Tensor,
    rows: Sequence[Rows],
    codecs: Sequence[Codec],
    tie: TiedKey | None,
    positions: torch.Tensor | None,
    dtype: torch.dtype,
    key_mask: torch.Tensor | None,
) -> Part:
    """The part of the packed tokens, in natural space.

    Args:
        query: [B, H, R, D] float32, scaled, with its rotary embedding.
        rows: N packed tokens: of V, or of K and of V.
        codecs: of the rows.
        tie: how K follows from V; None with rows of K and of V.
        positions: [B, N] integers, of the tokens; read with a tie.
        dtype: of the model.
        key_mask: [B, N] bool, False where a token is padding.
    """
    if in_place(codecs, tie):
        return _attend_in_place(query, rows, codecs, tie, positions, dtype, key_mask)
    part: Part | None = None
    for low in range(0, rows[0].primary.shape[2], _TILE_TOKENS):
        tile = slice(low, low + _TILE_TOKENS)
        streams = [codec.decode(cut(r, tile)) for codec, r in zip(codecs, rows, strict=True)]
        if tie is not None and positions is not None:
            streams.insert(0, tie.rebuild(streams[0].to(dtype), positions[:, tile]))
        key, value = (Rows(stream, None, None) for stream in streams)
        mask = None if key_mask is None else key_mask[:, tile]
        more = attend_packed(query, key, value, None, None, mask)
        part = more if part is None else _join(part, more)
    assert part is not None
    return part


def _attend_in_place(
    query: torch.Tensor,
    rows: Sequence[Rows],
    codecs: Sequence[Codec],
    tie: TiedKey | None,
    positions: torch.Tensor | None,
    dtype: torch.dtype,
    key_mask: torch.Tensor | None,
) -> Part:
    key_codec, value_codec = codecs[0], codecs[-1]
    rope = shift = None
    if tie is None or positions is None:
        stored_query = key_codec.to_stored(query)
        if key_codec.offset is not None:
            shift = query @ key_codec.offset.mT
    else:
        # No name for what is crossed, or it would live as long as the scores
        stored_query, rope, shift = tie.stored_query(
            tie.crossed(query), key_codec, positions, dtype
        )
    value = rows[1] if len(rows) == 2 else None
    part = attend_packed(
        stored_query, rows[0], value, key_codec.table, rope, key_mask, value_codec.table
    )
    top, total = part.top, value_codec.from_stored(part.total)
    if shift is not None:
        top = top + shift
    if value_codec.offset is not None:
        total = total + part.mass * value_codec.offset
    return Part(top, part.mass, total)


def cut(rows: Rows, tile: slice) -> Rows:
    """The rows of some tokens, as views."""
    return Rows(*(None if field is None else field[:, :, tile] for field in rows))  # type: ignore[arg-type]


def _join(one: Part, two: Part) -> Part:
    """One part over the keys of both."""
    top = torch.maximum(one.top, two.top)
    first, second = torch.exp(one.top - top), torch.exp(two.top - top)
    return Part(
        top,
        first * one.mass + second * two.mass,
        first * one.total + second * two.total,
    )
