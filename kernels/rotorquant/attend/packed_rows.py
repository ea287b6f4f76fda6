"""Attention over the packed tokens of a global layer, in the space of the rows where that is exact.

Rows are scored as they lie where K and V are stored apart, or where the rotation keeps the pairs
that the rotary embedding turns. Elsewhere a tile of rows is decoded, K = RoPE(w V) is rebuilt from
it, and the tile is scored as plain values, which is more work for the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rotorquant.attend.tied_key import TiedKey, TiedQueries
from rotorquant.codec.codec import Codec
from rotorquant.ops.attend import Part, Rows, attend_packed, join
from rotorquant.ops.decode import RowQueries

__all__ = ["attend_rows", "exact_queries", "in_place", "stored_queries"]

# 32 MiB of float32 for four heads of 512 values.
_TILE_TOKENS = 4096


def in_place(codecs: Sequence[Codec], tie: TiedKey | None) -> bool:
    """Whether rows are scored as they lie."""
    kept = [codec.pairs for codec in codecs]
    return None not in kept and (tie is None or tie.pairs <= (kept[0] or 0))


def attend_rows(
    query: torch.Tensor,
    rows: Sequence[Rows],
    codecs: Sequence[Codec],
    tied_queries: TiedQueries | None,
    positions: torch.Tensor | None,
    dtype: torch.dtype,
    key_mask: torch.Tensor | None,
) -> Part:
    """The part of the packed tokens, in natural space.

    Args:
        query: [B, H, R, D] float32, scaled, with its rotary embedding.
        rows: N packed tokens: of V, or of K and of V.
        codecs: of the rows.
        tied_queries: of a layer that stores V alone; None with rows of K and of V.
        positions: [B, N] integers, of the tokens; read where V is stored alone.
        dtype: of the model.
        key_mask: [B, N] bool, False where a token is padding.
    """
    tie = None if tied_queries is None else tied_queries.tie
    if in_place(codecs, tie):
        queries = stored_queries(
            exact_queries(query, tied_queries, positions, dtype), codecs[0], tied_queries
        )
        return _attend_in_place(queries, rows, codecs, key_mask)
    # Decoded rows are float32, so they are taken in tiles and never lie in memory all at once.
    part: Part | None = None
    for low in range(0, rows[0].primary.shape[2], _TILE_TOKENS):
        tile = slice(low, low + _TILE_TOKENS)
        streams = [codec.decode(r.cut(tile)) for codec, r in zip(codecs, rows, strict=True)]
        if tie is not None and positions is not None:
            streams.insert(0, tie.rebuild(streams[0].to(dtype), positions[:, tile]))
        key, value = (Rows(stream, None, None) for stream in streams)
        mask = None if key_mask is None else key_mask[:, tile]
        more = attend_packed(query, key, value, None, None, mask)
        part = more if part is None else join(part, more)
    assert part is not None
    return part


def exact_queries(
    query: torch.Tensor,
    tied_queries: TiedQueries | None,
    positions: torch.Tensor | None,
    dtype: torch.dtype,
) -> RowQueries:
    """Queries for rows that hold what the model computed; arguments as for `attend_rows`."""
    if tied_queries is None or positions is None:
        return RowQueries(query)
    return tied_queries.exact(query, positions, dtype)


def stored_queries(exact: RowQueries, codec: Codec, tied_queries: TiedQueries | None) -> RowQueries:
    """The same queries for rows of the codec."""
    if tied_queries is not None:
        return tied_queries.packed(exact)
    shift = None if codec.offset is None else exact.query @ codec.offset.mT
    return RowQueries(codec.to_stored(exact.query), None, shift)


def _attend_in_place(
    queries: RowQueries,
    rows: Sequence[Rows],
    codecs: Sequence[Codec],
    key_mask: torch.Tensor | None,
) -> Part:
    value, value_codec = rows[1] if len(rows) == 2 else None, codecs[-1]
    part = attend_packed(
        queries.query, rows[0], value, codecs[0].table, queries.rope, key_mask, value_codec.table
    )
    # Scores and sums leave the offset out of every row. A shift that is the same for all rows goes
    # to `top`, and the offset goes once to the sum, as softmax weights sum to `mass`.
    top, total = part.top, value_codec.from_stored(part.total)
    if queries.shift is not None:
        top = top + queries.shift
    if value_codec.offset is not None:
        total = total.addcmul_(part.mass, value_codec.offset)
    return Part(top, part.mass, total)
