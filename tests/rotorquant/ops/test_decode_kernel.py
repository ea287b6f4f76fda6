"""A decode step in one pass: the kernel against the reference, and the reference against a formula.

Formulas are in float64 over all tokens in order; see `test_attend_kernel.check` for the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from rotorquant.ops.attend import Rope, Rows
from rotorquant.ops.attend.launch import launch_config
from rotorquant.ops.decode import Exact, RowQueries, Stored, decode, reference, serves
from rotorquant.ops.dequantize import decode_table, dequantize
from rotorquant.ops.planes import PACKED_BITS, planes_of
from tests.rotorquant.ops.kernels import DEVICE, Spy, centroids_of, draw_rows, force_kernels

pytest.importorskip("triton", reason="triton is not installed")


BATCH, HEADS = 2, 1


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return force_kernels(monkeypatch, "decode.decode_kernel")["decode_kernel"]


@dataclass(frozen=True)
class Case:
    """A layer: head size, bits of the packed rows, tokens of each kind, new tokens, group."""

    head_dim: int
    bits: int
    first: int
    packed: int
    last: int
    steps: int = 1
    group: int = 2
    tied: bool = True
    moved: bool = False
    masked: bool = False

    @property
    def pairs(self) -> int:
        return self.head_dim // 8 if self.tied else 0


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE)


def exact(case: Case, tokens: int, capacity: int) -> Exact:
    """Buffers of a larger capacity than there are tokens, poisoned behind them."""
    streams = draw(2, BATCH, HEADS, capacity, case.head_dim)
    streams[:, :, :, tokens:] = torch.nan
    rows = [Rows(stream, None, None) for stream in streams]
    return Exact(rows[0], None if case.tied else rows[1])


def reading(case: Case, natural: bool, positions: torch.Tensor) -> RowQueries:
    """Queries with scores of a spread of about 2, as they meet plain or packed rows."""
    rows, head_dim, pairs = case.group * case.steps, case.head_dim, case.pairs
    query = draw(BATCH, HEADS, rows, head_dim) * 2 / head_dim**0.5
    if not case.tied:
        return RowQueries(query)
    place = torch.arange(head_dim, device=DEVICE)
    if not natural and case.bits < 16:
        order = planes_of(case.bits).storage_order(head_dim)
        place = torch.tensor(order, device=DEVICE).argsort()
    first, second = place[:pairs], place[head_dim // 2 : head_dim // 2 + pairs]
    moved = case.moved and not natural
    rope = Rope(
        draw(BATCH, HEADS, rows, 4 * pairs) * 2 / head_dim**0.5,
        first,
        second,
        positions,
        1e6 ** (-2.0 * torch.arange(pairs, device=DEVICE) / head_dim),
        torch.float32,
        draw(BATCH, HEADS, rows, 2 * pairs) * 2 / head_dim**0.5 if moved else None,
    )
    query = query.index_fill(-1, torch.cat((first, second)), 0.0)
    return RowQueries(query, rope, draw(BATCH, HEADS, rows, 1) if moved else None)


def packed_rows(case: Case) -> Rows:
    shape = BATCH, HEADS, case.packed + 5
    if case.bits == 16:
        return Rows(draw(*shape, case.head_dim), None, None)
    return Rows(*draw_rows(*shape, head_dim=case.head_dim, bits=case.bits))


def layer(case: Case) -> dict[str, Any]:
    """The arguments of `decode`; positions are far into a long context."""
    capacity = case.first + case.packed + case.last + 9
    positions = torch.arange(capacity, device=DEVICE) + 200_000
    positions = positions + 7 * torch.arange(BATCH, device=DEVICE)[:, None]
    packed = [packed_rows(case) for _ in "kv"]
    table = decode_table(centroids_of(case.bits), case.bits) if case.bits < 16 else None
    mask = None
    if case.masked:
        mask = torch.rand(BATCH, capacity, device=DEVICE) < 0.5
        mask[1] = False
    return {
        "near": reading(case, True, positions),
        "first": exact(case, case.first, max(case.first, 8)),
        "last": exact(case, case.last, case.last + 3),
        "counts": torch.tensor(
            [case.first, case.packed, case.last], dtype=torch.int32, device=DEVICE
        ),
        "steps": case.steps,
        "key_mask": mask,
        "far": reading(case, False, positions),
        "stored": Stored(packed[0], None if case.tied else packed[1], table, table),
    }


def check(own: Any, wanted: Any) -> None:
    """The largest error of every row, against the largest value of the output."""
    size = sum(field.abs().amax() for field in wanted[:2] if field is not None)
    for mine, right in zip(own, wanted, strict=True):
        assert (mine is None) == (right is None)
        if right is not None:
            assert mine.shape == right.shape
            assert float((mine - right).abs().max() / size) < 1e-2


CASES = [
    *(Case(64, bits, 8, 75, 21) for bits in (*PACKED_BITS, 16)),
    *(Case(64, bits, 8, 75, 21, tied=False) for bits in (3, 8, 16)),
    Case(32, 4, 8, 40, 12, moved=True),
    Case(64, 4, 8, 70, 37, steps=5, group=4),
    Case(64, 2, 8, 70, 37, steps=16, group=1, tied=False),
    Case(64, 4, 8, 33, 9, steps=3, masked=True, moved=True),
    Case(64, 4, 3, 0, 3, steps=3),
    Case(64, 4, 1, 0, 0),
    Case(128, 5, 4, 64, 32, group=8),
    Case(256, 6, 4, 33, 31, tied=False),
    Case(512, 4, 4, 33, 31, group=8),
    # More than 16 queries: several programs, the last one not full.
    Case(512, 4, 4, 33, 31, steps=3, group=8, moved=True),
    Case(256, 3, 4, 33, 31, steps=2, group=8, tied=False),
]


def test_drafts_share_a_tile_where_registers_hold_their_sums() -> None:
    def rows(head_dim: int, queries: int) -> int:
        return launch_config(head_dim, 4, queries, 64, False, (9, 0)).block_rows

    assert [rows(512, queries) for queries in (8, 9, 16, 17, 128)] == [8, 16, 16, 32, 32]
    assert [rows(256, queries) for queries in (8, 128)] == [8, 16]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_pass_over_packed_and_exact_tokens(case: Case, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(case.bits + case.head_dim)
    given = layer(case)
    wanted = decode(**given)
    spy = request.getfixturevalue("_forced")
    check(decode(**given), wanted)
    assert spy.launches == 1


@pytest.mark.parametrize("case", [CASES[7], CASES[12]], ids=str)
def test_the_reference_is_the_softmax_over_all_tokens_in_order(case: Case) -> None:
    """K and V apart, decoded, in order, with a triangle of steps."""
    torch.manual_seed(0)
    given = layer(case)
    far, near = given["far"].query, given["near"].query
    centroids = centroids_of(case.bits)
    rows = []
    for primary, extra, scale in given["stored"][:2]:
        extra = None if extra is None else extra[:, :, : case.packed]
        cut = primary[:, :, : case.packed], extra, scale[:, :, : case.packed]
        rows.append(dequantize(*cut, centroids, case.bits))
    order = torch.tensor(planes_of(case.bits).storage_order(case.head_dim), device=DEVICE)
    key, value = (stream.index_select(-1, order).double() for stream in rows)
    pairs = zip(given["first"], given["last"], strict=True)
    near_key, near_value = (
        torch.cat((a.primary[:, :, : case.first], b.primary[:, :, : case.last]), 2).double()
        for a, b in pairs
    )
    scores = torch.cat((far.double() @ key.mT, near.double() @ near_key.mT), -1)
    exact_tokens = case.first + case.last
    step = torch.arange(case.group * case.steps, device=DEVICE) % case.steps
    behind = torch.arange(exact_tokens, device=DEVICE) > (exact_tokens - case.steps + step[:, None])
    scores[..., case.packed :].masked_fill_(behind, -torch.inf)
    weights = scores.softmax(-1)
    split = weights[..., : case.packed], weights[..., case.packed :]
    decoded = decode(**given)
    assert decoded.far is not None
    assert decoded.share is not None
    # Float32 against float64
    close: dict[str, Any] = {"rtol": 2e-5, "atol": 2e-5, "check_dtype": False}
    torch.testing.assert_close(decoded.near, split[1] @ near_value, **close)
    torch.testing.assert_close(decoded.far, split[0] @ value, **close)
    torch.testing.assert_close(decoded.share, split[0].sum(-1, keepdim=True), **close)


@pytest.mark.parametrize(
    ("steps", "length", "bits"),
    [(1, 1, 16), (1, 41, 16), (1, 100, 8), (4, 17, 16), (4, 40, 8), (4, 42, 16), (16, 99, 16)],
)
def test_a_ring_is_read_in_any_state(
    steps: int, length: int, bits: int, request: pytest.FixtureRequest
) -> None:
    """Before it is full, full, wrapped; against attention over the tokens in order."""
    torch.manual_seed(length)
    window, group, head_dim = 40, 2, 64
    key, value = draw(2, BATCH, HEADS, length, head_dim)
    query = draw(BATCH, HEADS, group * steps, head_dim) / head_dim**0.5
    mask = torch.rand(BATCH, length, device=DEVICE) < 0.9
    step = torch.arange(group * steps, device=DEVICE) % steps
    at = length - steps + step[:, None]
    token = torch.arange(length, device=DEVICE)
    seen = (token <= at) & (token > at - window) & mask[:, None, None]
    (old_key, new_key), (old_value, new_value) = (
        ring(stream, steps, window, bits) for stream in (key, value)
    )
    counts = torch.tensor([99, 99, length], dtype=torch.int32, device=DEVICE)
    given: dict[str, Any] = {
        "near": RowQueries(query),
        "first": Exact(old_key, old_value),
        "last": Exact(new_key, new_value),
        "counts": counts,
        "steps": steps,
        "window": window,
        "key_mask": mask,
    }
    scores = (query.double() @ key.double().mT).masked_fill(~seen, -torch.inf)
    wanted = scores.softmax(-1).nan_to_num() @ value.double()
    # int8 codes are off by up to 1/254 of the largest of 64 values, about three deviations.
    atol = 2e-5 if bits == 16 else 4e-2
    near = reference.decode(**given, far=None, stored=None).near if bits == 8 else None
    torch.testing.assert_close(
        decode(**given | {"counts": counts.cpu()}).near, wanted.float(), rtol=0, atol=atol
    )
    spy = request.getfixturevalue("_forced")
    own = decode(**given).near
    torch.testing.assert_close(own, wanted.float() if near is None else near, rtol=0, atol=1e-2)
    assert spy.launches == 1


def ring(stream: torch.Tensor, steps: int, window: int, bits: int) -> tuple[Rows, Rows]:
    """Rows of a stream [B, H, N, D] that were pushed out by the steps, and the slots."""
    length = stream.shape[2]
    slots = torch.full((*stream.shape[:2], window, stream.shape[3]), torch.nan, device=DEVICE)
    kept = torch.arange(max(0, length - window), length, device=DEVICE)
    slots[:, :, kept % window] = stream[:, :, kept]
    old = torch.arange(steps - 1, device=DEVICE) + length - window - (steps - 1)
    pushed = stream[:, :, old.clamp_min(0)]
    if bits == 16:
        return Rows(pushed, None, None), Rows(slots, None, None)
    return eight(pushed), eight(slots.nan_to_num())


def eight(stream: torch.Tensor) -> Rows:
    scale = (stream.abs().amax(-1) / 127).to(torch.float16)
    step = scale.float().clamp_min(1e-7).unsqueeze(-1)
    return Rows((stream / step).round().clamp(-127, 127).to(torch.int8), None, scale)


def test_what_the_kernel_serves(_forced: Spy) -> None:
    assert serves(draw(1, 4, 16, 64), pairs=32, window=1024)
    assert not serves(draw(1, 4, 17, 64), pairs=0)
    assert not serves(draw(1, 4, 8, 64), pairs=0, window=7)
    assert not serves(draw(1, 4, 1, 24), pairs=0)


def test_queries_and_keys_that_do_not_belong_together_are_refused() -> None:
    given = layer(Case(64, 4, 8, 20, 12))
    with pytest.raises(ValueError, match="3 steps"):
        decode(**given | {"steps": 3})
    with pytest.raises(ValueError, match="queries of their own"):
        decode(**given | {"far": None})
