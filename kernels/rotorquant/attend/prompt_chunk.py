"""Attention of a chunk of queries over plain keys and values, which has a kernel on a GPU.

Packed history is decoded in pieces of `HISTORY_TOKENS`, each once for all queries, and every piece
adds to the part of the pieces before. So the workspace stays the same however long a history is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from rotorquant.attend.packed_rows import in_place
from rotorquant.attend.tied_key import TiedKey
from rotorquant.attend.views import Queries, attend_in_blocks
from rotorquant.codec.codec import Codec
from rotorquant.ops.attend import Part, Rows, attend_exact
from rotorquant.ops.attend.launch import ROWS_LIMIT
from rotorquant.ops.chunk import Rules, chunk_output, chunk_part, has_kernel, reach_of
from rotorquant.ops.rebuild import Twist, rebuild

__all__ = [
    "HISTORY_TOKENS",
    "attend_chunk",
    "attend_history",
    "attend_keys",
    "attend_step",
    "is_chunk",
]

HISTORY_TOKENS = 8192  # K and V of four heads of 512 values in 16 bits: 64 MiB
_ROWS = 1024  # that change their space at a time, in float32: 8 MiB of four such heads


def is_chunk(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether queries [B, heads, T, D] are enough to decode history for, and a kernel is there."""
    rows = query.shape[1] // key.shape[1] * query.shape[2]
    return rows > ROWS_LIMIT and has_kernel(query, key)


def attend_chunk(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    window: int | None = None,
    key_mask: torch.Tensor | None = None,
    blocks: torch.Tensor | None = None,
    before: Part | None = None,
) -> torch.Tensor:
    """Attention output [B, T, heads, D] of queries that are the last of the keys.

    Args:
        query: [B, heads, T, D].
        key, value: [B, H, N, D].
        scaling: factor of the scores.
        window: how many keys a query sees, itself included; None for all.
        key_mask: [B, N] bool, False where a key is padding.
        blocks: [B, N] image numbers, -1 for text.
        before: the part of keys that all queries see, from `attend_history`.
    """
    past = key.shape[2] - query.shape[2]
    reach = None if blocks is None else reach_of(blocks, past)
    return chunk_output(query, key, value, scaling, Rules(past, window, reach, key_mask), before)


def attend_step(queries: Queries, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention output [B, 1, heads, D] of one query that sees all keys [B, H, N, D], by torch."""
    query = queries.query
    batch, heads, _, head_dim = query.shape
    # The queries that share a key head stand in for queries of several tokens
    grouped = query.reshape(batch, key.shape[1], -1, head_dim)
    found = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, scale=queries.scaling
    )
    return found.reshape(batch, 1, heads, head_dim)


def attend_keys(
    queries: Queries, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    """Attention output [B, T, heads, D] over plain keys, by the kernel where there is one.

    Args:
        queries: the last queries of the keys; its mask and blocks are of these keys alone.
        key, value: [B, H, N, D].
        window: how many keys a query sees, itself included; None for all.
    """
    query, rules = queries.query, (window, queries.key_mask, queries.blocks)
    if has_kernel(query, key):
        return attend_chunk(query, key, value, queries.scaling, *rules)
    past = key.shape[2] - query.shape[2]

    def parts(grouped: torch.Tensor, start: int) -> list[Part]:
        return [attend_exact(grouped, key, value, past + start, *rules)]

    return attend_in_blocks(query, key.shape[1], queries.scaling, parts)


def attend_history(
    query: torch.Tensor,
    rows: Sequence[Rows],
    codecs: Sequence[Codec],
    tie: TiedKey | None,
    positions: torch.Tensor | None,
    scaling: float,
    key_mask: torch.Tensor | None,
) -> Part:
    """The part [B, H, G, T, ...] of packed tokens, all of which every query sees.

    Args:
        query: [B, heads, T, D] in the model's dtype, with its rotary embedding.
        rows: N packed tokens: of V, or of K and of V.
        codecs: of the rows.
        tie: how K follows from V; None with rows of K and of V.
        positions: [B, N] integers, of the tokens; read with a tie.
        scaling: factor of the scores.
        key_mask: [B, N] bool, False where a token is padding.
    """
    as_stored = in_place(codecs, tie) and all(codec.table is not None for codec in codecs)
    shift, stored_query = None, query
    if as_stored:
        stored_query, shift = _stored_query(query, rows[0].primary.shape[1], codecs[0], tie)
    part: Part | None = None
    for low in range(0, rows[0].primary.shape[2], HISTORY_TOKENS):
        piece = slice(low, low + HISTORY_TOKENS)
        some = [each.cut(piece) for each in rows]
        where = None if positions is None else positions[:, piece]
        make = _stored_keys if as_stored else _natural_keys
        key, value = make(some, codecs, tie, where, query.dtype)
        mask = None if key_mask is None else key_mask[:, piece]
        part = chunk_part(
            stored_query, key, value, scaling, Rules(key.shape[2], key_mask=mask), part
        )
        del key, value  # the next piece needs their memory
    assert part is not None
    if not as_stored:
        return part
    # The sums are taken back once, after all pieces, instead of every value before it is summed.
    total = part.total.flatten(2, 3)
    for block in _blocks(total.shape[2]):
        total[:, :, block] = codecs[-1].from_stored(total[:, :, block])
    total = total.view_as(part.total)
    if codecs[-1].offset is not None:
        total.addcmul_(part.mass, codecs[-1].offset.unsqueeze(1))
    return Part(part.top if shift is None else part.top + scaling * shift, part.mass, total)


def _stored_query(
    query: torch.Tensor, kv_heads: int, codec: Codec, tie: TiedKey | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Queries for keys as `_stored_keys` makes them, and what the codec's offset adds to scores.

    At the places of rotary pairs keys are the model's own and so is the query.
    """
    natural, still = query.unflatten(1, (kv_heads, -1)).flatten(2, 3), codec.offset
    stored, shifts = torch.empty_like(natural), []
    dims = None if tie is None else _turned_dims(query.shape[-1], tie.pairs, query.device)
    if still is not None and dims is not None:
        still = still.index_fill(-1, dims, 0.0)
    for rows in _blocks(natural.shape[2]):
        some = natural[:, :, rows]
        # q (w v) = (w q) v where nothing turns, so the weight goes to the query.
        weighted = some.float() if tie is None else some * tie.weight(query.device)
        stored[:, :, rows] = codec.to_stored(weighted)
        if still is not None:
            shifts.append(weighted @ still.mT)
    if dims is not None:
        stored[..., codec.place[dims]] = natural[..., dims]
    grid = (-1, query.shape[2])
    shift = torch.cat(shifts, dim=2).unflatten(2, grid) if shifts else None
    return stored.unflatten(2, grid).flatten(1, 2), shift


def _blocks(rows: int) -> Iterator[slice]:
    """All rows, `_ROWS` at a time."""
    return (slice(low, low + _ROWS) for low in range(0, rows, _ROWS))


def _stored_keys(
    rows: Sequence[Rows],
    codecs: Sequence[Codec],
    tie: TiedKey | None,
    positions: torch.Tensor | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V as they are stored, rotated and in storage order."""
    tables = [codec.table for codec in codecs]
    assert tables[0] is not None and tables[-1] is not None
    if tie is None or positions is None:
        key, _ = rebuild(rows[0], tables[0], None, dtype)
        return key, rebuild(rows[-1], tables[-1], None, dtype)[1]
    heads = rows[0].primary.shape[1]
    return rebuild(rows[0], tables[0], _twist(codecs[0], heads, tie, positions, dtype), dtype)


def _natural_keys(
    rows: Sequence[Rows],
    codecs: Sequence[Codec],
    tie: TiedKey | None,
    positions: torch.Tensor | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V as the model had them."""
    # Rows of 16 bits have no scale: they are the values themselves.
    streams = [
        row.primary if row.scale is None else codec.decode(row).to(dtype)
        for codec, row in zip(codecs, rows, strict=True)
    ]
    if tie is not None and positions is not None:
        streams.insert(0, tie.rebuild(streams[0], positions))
    return streams[0], streams[1]


def _twist(
    codec: Codec, heads: int, tie: TiedKey, positions: torch.Tensor, dtype: torch.dtype
) -> Twist:
    """How the model's keys at rotary pairs follow from stored rows."""
    device, head_dim = positions.device, codec.place.shape[0]
    dims = _turned_dims(head_dim, tie.pairs, device)
    places = codec.place[dims]
    # [H, 2 pairs, D]: what a row with a one at a place of a pair stands for
    basis = torch.eye(head_dim, device=device)[places].expand(1, heads, -1, -1)
    meant = codec.from_stored(basis)[0] * tie.weight(device)
    half = head_dim // 2
    ones, twos = meant[..., : tie.pairs], meant[..., half : half + tie.pairs]
    # `in_place` says that pairs stay pairs: of each map only these four numbers are not zero.
    members = [
        stream.diagonal(pick, 1, 2)[..., : tie.pairs]
        for stream in (ones, twos)
        for pick in (0, -tie.pairs)
    ]
    offset = torch.zeros(heads, 2 * tie.pairs, device=device)
    if codec.offset is not None:
        offset = (codec.offset * tie.weight(device))[:, 0, dims]
    angles = positions.unsqueeze(-1).float() * tie.frequencies(device)
    still = torch.ones(head_dim, dtype=torch.bool, device=device)
    still[places] = False
    return Twist(
        places[: tie.pairs],
        places[tie.pairs :],
        still,
        torch.stack(members, dim=1),
        offset.unflatten(1, (2, -1)),
        angles.cos().to(dtype),
        angles.sin().to(dtype),
    )


def _turned_dims(head_dim: int, pairs: int, device: torch.device) -> torch.Tensor:
    """The first members of the rotary pairs that turn, then the second ones."""
    steps = torch.arange(pairs, device=device)
    return torch.cat((steps, steps + head_dim // 2))
