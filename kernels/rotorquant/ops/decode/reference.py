"""Specification of a decode step: `steps` queries over packed rows and exact tokens, one softmax.

A layer's tokens are, in order: first tokens, exact; packed ones; last tokens, exact, the queries'
own among them. In a layer with a window the last tokens are a ring, token t in slot t mod window,
and the first ones are those that the queries' own tokens have pushed out of it. Query t, standing
at p = length - steps + t, sees token j when

    j <= p   and, with a window,   j > p - window.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from rotorquant.ops.attend import reference
from rotorquant.ops.attend.reference import Part, Rope, Rows

__all__ = ["Decoded", "Exact", "RowQueries", "Stored", "decode"]


class RowQueries(NamedTuple):
    """Queries prepared for rows of one form, exact or packed.

    query: [B, H, R, D] float32, row g steps + t for query head g of the group and step t.
    rope: rotary part of the scores, or None; its positions are those of all tokens, in order.
    shift: [B, H, R, 1] float32 added to all scores, or None.
    """

    query: torch.Tensor
    rope: Rope | None = None
    shift: torch.Tensor | None = None


class Exact(NamedTuple):
    """Plain rows [B, H, slots, D] of any float dtype, or int8 with scales [B, H, slots].

    value is None where the keys are the values, too.
    """

    key: Rows
    value: Rows | None


class Stored(NamedTuple):
    """Packed rows, or plain ones without a scale, and the tables that decode them."""

    key: Rows
    value: Rows | None
    table: torch.Tensor | None
    values: torch.Tensor | None


class Decoded(NamedTuple):
    """Means of exact and of packed rows [B, H, R, D], weighted by the softmax over all of them.

    share: [B, H, R, 1], the weight that the packed rows have together. None without packed rows.
    """

    near: torch.Tensor
    far: torch.Tensor | None
    share: torch.Tensor | None


def decode(
    near: RowQueries,
    first: Exact,
    last: Exact,
    counts: torch.Tensor,
    steps: int,
    window: int | None,
    key_mask: torch.Tensor | None,
    far: RowQueries | None,
    stored: Stored | None,
) -> Decoded:
    """A decode step, one query token after the other, over all tokens in order."""
    count, between, latest = (int(number) for number in counts)
    length = count + between + latest
    if window is None:
        tokens = torch.cat((torch.arange(count), torch.arange(count + between, length)))
    else:
        # With a window the last count is of the whole sequence, of which the ring holds the latest.
        count, length, latest = first.key.primary.shape[2], latest, min(latest, window)
        tokens = _ring_tokens(count, length, window)
    tokens = tokens.to(near.query.device)
    key = _joined(first.key, last.key, count, latest)
    value = None
    if first.value is not None and last.value is not None:
        value = _joined(first.value, last.value, count, latest)
    seen = torch.ones(near.query.shape[0], len(tokens), dtype=torch.bool, device=tokens.device)
    # Negative tokens are slots that nothing was written to; `visible` leaves them out.
    if key_mask is not None:
        seen = key_mask[:, tokens.clamp_min(0)]
    rope = _of(near.rope, tokens.clamp_min(0))
    parts = []
    for step in range(steps):
        at = length - steps + step
        visible = seen & (tokens >= 0) & (tokens <= at)
        if window is not None:
            visible = visible & (tokens > at - window)
        # Every query at every step, of which `_chosen` keeps one: slow, and plainly right.
        parts.append(reference.attend_packed(near.query, key, value, None, rope, visible))
    step_of = torch.arange(near.query.shape[2], device=tokens.device) % steps
    part = Part(*(_chosen(list(fields), step_of) for fields in zip(*parts, strict=True)))
    if far is None or stored is None:
        return Decoded(reference.merge([part]), None, None)
    return _joint(part, _far(far, stored, count, between, key_mask))


def _ring_tokens(pushed: int, length: int, window: int) -> torch.Tensor:
    """Which tokens have been pushed out, and which lie in the slots of a ring in use."""
    last = length - 1
    slots = last - (last - torch.arange(min(length, window))) % window
    return torch.cat((torch.arange(pushed) + length - window - pushed, slots))


def _far(
    far: RowQueries, stored: Stored, count: int, between: int, key_mask: torch.Tensor | None
) -> Part:
    tokens = torch.arange(count, count + between, device=far.query.device)
    key, value = (
        None if rows is None else rows.cut(slice(between)) for rows in (stored.key, stored.value)
    )
    assert key is not None
    if between == 0:
        return reference.empty(far.query)
    mask = None if key_mask is None else key_mask[:, tokens]
    part = reference.attend_packed(
        far.query, key, value, stored.table, _of(far.rope, tokens), mask, stored.values
    )
    return part if far.shift is None else part._replace(top=part.top + far.shift)


def _joint(near: Part, far: Part) -> Decoded:
    top = torch.where(far.mass > 0, torch.maximum(near.top, far.top), near.top)
    weights = [torch.exp(part.top - top).nan_to_num(0.0, 0.0) for part in (near, far)]
    mass = weights[0] * near.mass + weights[1] * far.mass
    mass = mass.clamp_min(torch.finfo(torch.float32).tiny)
    return Decoded(
        weights[0] * near.total / mass,
        weights[1] * far.total / mass,
        weights[1] * far.mass / mass,
    )


def _chosen(fields: list[torch.Tensor], step_of: torch.Tensor) -> torch.Tensor:
    """Row r of the field that belongs to its step."""
    stacked = torch.stack(fields)
    return stacked[step_of, :, :, torch.arange(len(step_of), device=step_of.device)].movedim(0, 2)


def _of(rope: Rope | None, tokens: torch.Tensor) -> Rope | None:
    return None if rope is None else rope._replace(positions=rope.positions[:, tokens])


def _joined(first: Rows, last: Rows, count: int, latest: int) -> Rows:
    one, two = first.cut(slice(count)), last.cut(slice(latest))
    scale = None
    if one.scale is not None and two.scale is not None:
        scale = torch.cat((one.scale, two.scale), 2)
    return Rows(torch.cat((one.primary, two.primary), 2), None, scale)
