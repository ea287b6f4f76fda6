"""The kernels of attend against the reference."""

from __future__ import annotations

import pytest
import torch

from rotorquant.ops import attend
from rotorquant.ops.attend import Part, Rope, Rows, attend_packed
from rotorquant.ops.dequantize import decode_table
from rotorquant.ops.planes import planes_of
from tests.rotorquant.ops.kernels import (
    DEVICE,
    Spy,
    centroids_of,
    draw_rows,
    force_kernels,
    widths_and_heads,
)

pytest.importorskip("triton", reason="triton is not installed")

from rotorquant.ops.attend.launch import HEAD_DIMS  # noqa: E402

WAVES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return force_kernels(monkeypatch, "attend.attend_kernel")["attend_kernel"]


def table_of(bits: int) -> torch.Tensor:
    return decode_table(centroids_of(bits), bits)


def draw_query(batch: int, heads: int, rows: int, head_dim: int) -> torch.Tensor:
    """Scores against unit values then have a spread of about 2."""
    return torch.randn(batch, heads, rows, head_dim, device=DEVICE) * 2 / head_dim**0.5


def draw_rope(
    query: torch.Tensor, keys: int, pairs: int, bits: int, dtype: torch.dtype, bias: bool
) -> tuple[torch.Tensor, Rope]:
    """A query that is zero on the turned places, and its rotary part, far into a long context."""
    batch, heads, rows, head_dim = query.shape
    order = planes_of(bits).storage_order(head_dim)
    place = torch.tensor(order, device=DEVICE).argsort()
    first, second = place[:pairs], place[head_dim // 2 : head_dim // 2 + pairs]
    turn = draw_query(batch, heads, rows, 4 * pairs)
    steps = torch.arange(pairs, device=DEVICE)
    positions = torch.arange(keys, device=DEVICE) + 200_000
    positions = positions + 7 * torch.arange(batch, device=DEVICE)[:, None]
    rope = Rope(
        turn,
        first,
        second,
        positions,
        1e6 ** (-2.0 * steps / head_dim),
        dtype,
        draw_query(batch, heads, rows, 2 * pairs) if bias else None,
    )
    return query.index_fill(-1, torch.cat((first, second)), 0.0), rope


def check(own: Part, part: Part) -> None:
    """The largest error of every row, against the size of the row.

    Scores have a spread of about 4 and are sums of products of float16 roundings, each off by at
    most 2^-11 of itself: five standard deviations are 1e-2. bfloat16 would not pass.
    """
    for field, wanted in zip(own, part, strict=True):
        assert field.shape == wanted.shape
        assert field.dtype == torch.float32
    seen = part.mass > 0
    assert torch.equal(own.mass > 0, seen)
    # The pair (top, mass) may be split otherwise; its logarithm may not.
    logs = [(p.top + p.mass.log())[seen] for p in (own, part)]
    torch.testing.assert_close(*logs, rtol=0, atol=1e-2)
    outputs = [p.total / p.mass.clamp_min(1e-30) for p in (own, part)]
    error = (outputs[0] - outputs[1]).abs().amax(-1)
    assert bool((error <= 1e-2 * outputs[1].abs().amax(-1)).all()), float(error.max())


@pytest.mark.parametrize(("bits", "head_dim"), widths_and_heads(HEAD_DIMS))
def test_tied_rows_are_scored_through_their_rotary_embedding(
    bits: int, head_dim: int, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(bits)
    # A single key, whole tiles, and a length that is shared out; few queries and more than a tile.
    cases = [(1, 5), (32, 16), (70, 17)]
    pairs = max(3, head_dim // 8 - bits % 2)
    inputs = []
    for keys, rows in cases:
        query = draw_query(2, 1, rows, head_dim)
        query, rope = draw_rope(query, keys, pairs, bits, WAVES[-1], bias=keys == 1)
        packed = Rows(*draw_rows(2, 1, keys, head_dim=head_dim, bits=bits))
        inputs.append((query, packed, None, table_of(bits), rope))
    expected = [attend_packed(*each) for each in inputs]
    spy = request.getfixturevalue("_forced")
    for each, part in zip(inputs, expected, strict=True):
        check(attend_packed(*each), part)
    assert spy.launches == len(cases)


@pytest.mark.parametrize(("bits", "head_dim"), widths_and_heads((64, 256)))
def test_keys_and_values_may_lie_apart_and_have_other_widths(
    bits: int, head_dim: int, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(bits)
    value_bits = {2: 8, 3: 2, 4: 4, 5: 3, 6: 5, 8: 6}[bits]
    query = draw_query(2, 1, 8, head_dim)
    key = Rows(*draw_rows(2, 1, 70, head_dim=head_dim, bits=bits))
    value = Rows(*draw_rows(2, 1, 70, head_dim=head_dim, bits=value_bits))
    tables = table_of(bits), table_of(value_bits)
    mask = torch.rand(2, 70, device=DEVICE) < 0.5
    mask[1] = False
    for key_mask in (None, mask):
        expected = attend.reference.attend_packed(
            query, key, value, tables[0], None, key_mask, tables[1]
        )
        spy = request.getfixturevalue("_forced")
        check(attend_packed(query, key, value, tables[0], None, key_mask, tables[1]), expected)
    assert spy.launches == 2


@pytest.mark.parametrize("dtype", WAVES)
def test_waves_are_rounded_as_the_model_rounds_them(
    dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """One pair, one key at a time: the output is the key, the top is the score."""
    torch.manual_seed(4)
    query = torch.zeros(1, 1, 1, 64, device=DEVICE)
    query, rope = draw_rope(query, 16, 1, 4, dtype, bias=True)
    packed = Rows(*draw_rows(1, 1, 16, head_dim=64, bits=4))
    # What the kernel keeps of a table, so that the waves are all that is rounded differently
    table = table_of(4).half().float()
    request.getfixturevalue("_forced")
    for at in range(16):
        one = packed.cut(slice(at, at + 1))
        there = rope._replace(positions=rope.positions[:, at : at + 1])
        wanted = attend.reference.attend_packed(query, one, None, table, there, None)
        own = attend_packed(query, one, None, table, there)
        torch.testing.assert_close(own.top, wanted.top, rtol=0, atol=2e-3)


def test_plain_rows_are_read_as_they_are(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(6)
    query, rope = draw_rope(draw_query(1, 2, 4, 64), 40, 8, 8, WAVES[-1], bias=False)
    key, value = (Rows(torch.randn(1, 2, 40, 64, device=DEVICE), None, None) for _ in range(2))
    expected = attend_packed(query, key, value, None, rope)
    spy = request.getfixturevalue("_forced")
    check(attend_packed(query, key, value, None, rope), expected)
    assert spy.launches == 1


def test_long_chunks_stay_with_the_reference(_forced: Spy) -> None:
    packed = Rows(*draw_rows(1, 1, 9, head_dim=64, bits=4))
    attend_packed(draw_query(1, 1, 257, 64), packed, None, table_of(4))
    assert _forced.launches == 0
