"""Specification of the attend ops: online softmax over tiles, in float32.

A part keeps, for every query row, top = the largest score so far, mass = sum_j exp(s_j - top) and
total = sum_j exp(s_j - top) v_j (Milakov and Gimelshein 2018, arXiv 1805.02867). Parts over
disjoint keys merge by bringing them to a common top.

Rows stored before their rotary embedding ("tied latent", K = RoPE(w V)): for a rotary pair with
stored values (z1, z2), c = cos and s = sin of the key's angle, and the query side prepared once,

    score part = c (a1 z1 + a2 z2) + s (b1 z1 + b2 z2)

where a = R (w q) and b = R (w (q2, -q1)) for the query pair (q1, q2) and the rotor R in which V is
stored. All other dimensions enter as a plain dot product.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch

from rotorquant.ops.dequantize import lookup

__all__ = [
    "EMPTY_TOP",
    "SCORE_BUDGET",
    "Part",
    "Rope",
    "Rows",
    "attend_exact",
    "attend_packed",
    "empty",
    "join",
    "merge",
]

SCORE_BUDGET = 2**23  # scores in memory at once: 32 MiB in float32
TILE_KEYS = 4096
QUERY_STEP = 256
_STEP_ROWS = 64  # of a decode step; more would hold several parts of some size at a time
EMPTY_TOP = -1e30  # finite, so that exp(-inf - top) is 0 and never NaN


class Part(NamedTuple):
    """Running softmax: top and mass [..., 1], total [..., D], all float32."""

    top: torch.Tensor
    mass: torch.Tensor
    total: torch.Tensor


class Rows(NamedTuple):
    """Packed head vectors: planes [B, H, N, bytes] uint8 and scale [B, H, N] float16.

    Plain values [B, H, N, D] stand in `primary` alone; then scale is None.
    """

    primary: torch.Tensor
    extra: torch.Tensor | None
    scale: torch.Tensor | None

    def cut(self, tokens: slice) -> Rows:
        """The rows of some tokens, as views."""
        extra = None if self.extra is None else self.extra[:, :, tokens]
        scale = None if self.scale is None else self.scale[:, :, tokens]
        return Rows(self.primary[:, :, tokens], extra, scale)


class Rope(NamedTuple):
    """Rotary part of the scores.

    query: [B, H, R, 4 r] float32: a1, a2, b1, b2 of the r rotated pairs.
    first, second: [r] places of dimensions i and i + D/2 in a stored row, i < r.
    positions: [B, N] integers, of the keys.
    frequencies: [r] float32, radians per position.
    dtype: to which the model rounds cosine and sine.
    bias: [B, H, R, 2 r] float32 or None: added to scores, after the scale of the rows, are its
        products with the cosines and sines of the key, for rows that leave an offset out.
    """

    query: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    positions: torch.Tensor
    frequencies: torch.Tensor
    dtype: torch.dtype
    bias: torch.Tensor | None = None


def attend_packed(
    query: torch.Tensor,
    key: Rows,
    value: Rows | None,
    table: torch.Tensor | None,
    rope: Rope | None,
    key_mask: torch.Tensor | None,
    value_table: torch.Tensor | None = None,
) -> Part:
    """The part of packed or plain rows, all of which every query [B, H, R, D] sees."""
    batch, heads, rows, _ = query.shape
    count = key.primary.shape[2]
    step = max(1, SCORE_BUDGET // (batch * heads * min(TILE_KEYS, count)))
    # A decode step needs no part to write to: each tile is one
    whole = rows <= _STEP_ROWS and key_mask is None and count > 0
    part = None if whole else empty(query)
    for low in range(0, count, TILE_KEYS):
        keys = slice(low, min(low + TILE_KEYS, count))
        tile = _tile_of(key, value, table, table if value_table is None else value_table, keys)
        waves = None if rope is None else _waves(rope, keys)
        features = None if rope is None or waves is None else _rope_features(tile.key, rope, waves)
        for start in range(0, rows, step):
            chosen = slice(start, start + step)
            scores = _scores(query, tile, rope, waves, features, None if whole else chosen)
            if key_mask is not None:
                scores.masked_fill_(~key_mask[:, None, None, keys], -torch.inf)
            if part is None or whole:
                more = _part_of(scores, tile.value, tile.value_scale)
                part = more if part is None else join(part, more)
            else:
                own = Part(*(field[:, :, chosen] for field in part))
                _advance(own, scores, tile.value, tile.value_scale)
    return empty(query) if part is None else part


def attend_exact(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_start: int,
    window: int | None,
    key_mask: torch.Tensor | None,
    blocks: torch.Tensor | None,
) -> Part:
    """The part of exact keys for queries [B, H, G, T, D] that see what lies before them."""
    batch, heads, group, length, _ = query.shape
    if length == 1 and window is None and key_mask is None and blocks is None:
        seen = slice(0, query_start + 1)
        if query_start < TILE_KEYS:  # one tile, of which the query sees everything
            scores = query @ key[:, :, None, seen].float().mT
            return _part_of(scores, value[:, :, None, seen].float(), None)
    part = empty(query)
    step = max(1, SCORE_BUDGET // (batch * heads * group * min(TILE_KEYS, key.shape[2])))
    step = min(step, QUERY_STEP if window is None else max(64, min(window, 1024)))
    for start in range(0, length, step):
        stop = min(start + step, length)
        first, end = query_start + start, query_start + stop
        low = 0 if window is None else max(0, first - window + 1)
        high = end if blocks is None else _block_end(blocks, end)
        # Cloned: flattened, a single query row is a view, which must not be written onto itself
        chosen = Part(*(field[:, :, :, start:stop].flatten(2, 3).clone() for field in part))
        rows = query[:, :, :, start:stop].flatten(2, 3)
        for tile in range(low, high, TILE_KEYS):
            keys = slice(tile, min(tile + TILE_KEYS, high))
            scores = rows @ key[:, :, keys].float().mT
            visible = _visible(first, end, keys, window, key_mask, blocks, key.device)
            if visible is not None:
                grid = scores.unflatten(2, (group, stop - start))
                grid.masked_fill_(~visible, -torch.inf)
            _advance(chosen, scores, value[:, :, keys].float(), None)
        for field, done in zip(part, chosen, strict=True):
            field[:, :, :, start:stop] = done.unflatten(2, (group, stop - start))
    return part


def merge(parts: list[Part]) -> torch.Tensor:
    """The attention output [..., D] of parts over disjoint keys; 0 for a query that saw no key."""
    whole = reduce(join, parts)
    # A query that saw nothing has mass and total 0.
    return whole.total / whole.mass.clamp_min(torch.finfo(torch.float32).tiny)


def join(one: Part, two: Part) -> Part:
    """One part over the keys of both."""
    top = torch.maximum(one.top, two.top)
    first, second = torch.exp(one.top - top), torch.exp(two.top - top)
    return Part(top, first * one.mass + second * two.mass, first * one.total + second * two.total)


def empty(query: torch.Tensor) -> Part:
    """The part of no keys, for queries [..., D] float32."""
    column = query.new_full((*query.shape[:-1], 1), EMPTY_TOP)
    return Part(column, torch.zeros_like(column), torch.zeros_like(query))


def _part_of(scores: torch.Tensor, values: torch.Tensor, scale: torch.Tensor | None) -> Part:
    """The part of one tile that hides nothing; `scores` is overwritten."""
    top = scores.amax(-1, keepdim=True)
    weight = scores.sub_(top).exp_()
    mass = weight.sum(-1, keepdim=True)
    return Part(top, mass, (weight if scale is None else weight.mul_(scale)) @ values)


def _advance(
    part: Part, scores: torch.Tensor, values: torch.Tensor, scale: torch.Tensor | None
) -> None:
    """Take one more tile into `part`, in place; `scores` is overwritten."""
    top = torch.maximum(part.top, scores.amax(-1, keepdim=True))
    weight = scores.sub_(top).exp_()
    shrink = torch.exp(part.top - top)
    part.mass.mul_(shrink).add_(weight.sum(-1, keepdim=True))
    # Behind the mass, as the values' scale is multiplied into the weights in place.
    part.total.mul_(shrink).add_((weight if scale is None else weight.mul_(scale)) @ values)
    part.top.copy_(top)


class _Tile(NamedTuple):
    """Some keys and their values, unscaled and in storage order [B, H, n, D] float32.

    key_scale, value_scale: [B, H, 1, n] float32, or None: rows are looked up without it.
    """

    key: torch.Tensor
    value: torch.Tensor
    key_scale: torch.Tensor | None
    value_scale: torch.Tensor | None


def _tile_of(
    key: Rows,
    value: Rows | None,
    table: torch.Tensor | None,
    value_table: torch.Tensor | None,
    keys: slice,
) -> _Tile:
    stored, scale = _stored(key, table, keys), _scale(key, keys)
    if value is None:
        return _Tile(stored, stored, scale, scale)
    return _Tile(stored, _stored(value, value_table, keys), scale, _scale(value, keys))


def _stored(rows: Rows, table: torch.Tensor | None, keys: slice) -> torch.Tensor:
    """Unscaled values [B, H, n, D] float32 in storage order."""
    if table is None or rows.scale is None:
        return rows.primary[:, :, keys].float()
    extra = None if rows.extra is None else rows.extra[:, :, keys]
    return lookup(rows.primary[:, :, keys], extra, table)


def _scale(rows: Rows, keys: slice) -> torch.Tensor | None:
    return None if rows.scale is None else rows.scale[:, :, None, keys].float()


def _scores(
    query: torch.Tensor,
    tile: _Tile,
    rope: Rope | None,
    waves: tuple[torch.Tensor, torch.Tensor] | None,
    features: torch.Tensor | None,
    chosen: slice | None,
) -> torch.Tensor:
    """Scores [B, H, R, n] of some queries, by default of all."""

    def own(rows: torch.Tensor) -> torch.Tensor:
        return rows if chosen is None else rows[:, :, chosen]

    scores = own(query) @ tile.key.mT
    if rope is not None and features is not None:
        scores += own(rope.query) @ features.mT
    # Rows are scored without their scale, which is then one factor for each key.
    if tile.key_scale is not None:
        scores *= tile.key_scale
    if rope is not None and waves is not None and rope.bias is not None:
        scores += own(rope.bias) @ torch.cat(waves, dim=-1).mT
    return scores


def _rope_features(
    stored: torch.Tensor, rope: Rope, waves: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """[B, H, n, 4 r]: c z1, c z2, s z1, s z2."""
    places = torch.cat((rope.first, rope.second))
    pairs = stored.index_select(-1, places).unflatten(-1, (2, -1))
    return torch.cat([pairs * wave.unsqueeze(-2) for wave in waves], dim=-2).flatten(-2)


def _waves(rope: Rope, keys: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine [B, 1, n, r] float32 of the keys' angles, rounded as the model does."""
    angles = rope.positions[:, None, keys, None].float() * rope.frequencies
    return angles.cos().to(rope.dtype).float(), angles.sin().to(rope.dtype).float()


def _block_end(blocks: torch.Tensor, end: int) -> int:
    """Where the block that holds key end - 1 stops, in the row where it reaches furthest."""
    last = blocks[:, end - 1 : end]
    same = ((blocks == last) & (last >= 0)).nonzero()[:, 1]
    return max(end, int(same.max()) + 1) if same.numel() else end


def _visible(
    first: int,
    end: int,
    keys: slice,
    window: int | None,
    key_mask: torch.Tensor | None,
    blocks: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor | None:
    """Bool, broadcastable to [B, H, G, end - first, keys]; None when every key is seen."""
    seen = None
    # Else the tile lies before every query and within all their windows: nothing to hide.
    if keys.stop > first + 1 or (window is not None and keys.start < end - window):
        at_query = torch.arange(first, end, device=device).unsqueeze(-1)
        at_key = torch.arange(keys.start, keys.stop, device=device)
        seen = at_key <= at_query
        if blocks is not None:
            own = blocks[:, None, None, first:end, None]
            seen = seen | ((own == blocks[:, None, None, None, keys]) & (own >= 0))
        if window is not None:
            seen = seen & (at_key > at_query - window)
    if key_mask is not None:
        padding = key_mask[:, None, None, None, keys]
        seen = padding if seen is None else seen & padding
    return seen
