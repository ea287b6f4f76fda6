"""Rows of a decode step in their slots, and NaN found: against a loop, and kernels against both."""

from __future__ import annotations

import itertools

import pytest
import torch

from rotorquant.ops import append as op
from rotorquant.ops import dispatch
from rotorquant.ops.append import Look, append, append_scaled, note_finite
from tests.rotorquant.ops.kernels import DEVICE, Spy, spied

pytest.importorskip("triton", reason="triton is not installed")


POISON = 0x5A
# [B, H, slots, ...] of each buffer, T, tokens before
CASES = [
    ([(1, 4, 8, 16)], 1, 0),
    ([(1, 4, 8, 16)] * 2, 1, 7),
    ([(2, 3, 7, 20), (2, 3, 7, 33)], 3, 13),
    ([(2, 1, 5)], 5, 11),
    ([(1, 16, 16, 256)] * 2, 16, 1000),
    ([(1, 2, 9, 8), (1, 2, 9), (1, 2, 9, 4)], 2, 8),  # more than two: torch
]


@pytest.fixture(params=["reference", "kernel"])
def spies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    """How often kernels ran."""
    names = ("append.append_kernel", "append.scaled_kernel")
    made = spied(monkeypatch, *names)
    if request.param == "reference":
        monkeypatch.setattr(op, "_kernel", None)
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: True)
    return made


def _draw(shape: tuple[int, ...], tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """As a projection leaves it: the heads of a token side by side."""
    batch, heads, _, *values = shape
    drawn = torch.randint(-99, 99, (batch, tokens, heads, *values), device=DEVICE)
    return drawn.to(dtype).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int32])
@pytest.mark.parametrize(("shapes", "tokens", "before"), CASES)
def test_every_row_gets_its_slot(
    shapes: list[tuple[int, ...]],
    tokens: int,
    before: int,
    dtype: torch.dtype,
    spies: dict[str, Spy],
) -> None:
    torch.manual_seed(before)
    buffers = [torch.full(shape, POISON, dtype=dtype, device=DEVICE) for shape in shapes]
    rows = [_draw(shape, tokens, dtype) for shape in shapes]
    counts = torch.tensor([7, before, 9], device=DEVICE)
    wanted = [buffer.clone() for buffer in buffers]
    for step in range(tokens):
        for buffer, new in zip(wanted, rows, strict=True):
            buffer[:, :, (before + step) % buffer.shape[2]] = new[:, :, step]

    append(buffers, rows, counts[1:2])

    assert all(torch.equal(*pair) for pair in zip(buffers, wanted, strict=True))
    assert counts.tolist() == [7, before + tokens, 9]
    assert spies["append_kernel"].launches == (op._kernel is not None and len(shapes) <= 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("shape", "tokens", "before"),
    [((1, 16, 40, 256), 1, 39), ((2, 3, 7, 20), 3, 13), ((1, 2, 5, 8), 5, 11)],
)
def test_every_row_gets_its_slot_in_8_bits(
    shape: tuple[int, ...], tokens: int, before: int, dtype: torch.dtype, spies: dict[str, Spy]
) -> None:
    torch.manual_seed(before)
    codes = [torch.full(shape, POISON, dtype=torch.int8, device=DEVICE) for _ in range(2)]
    scales = [torch.full(shape[:3], 0.5, dtype=torch.float16, device=DEVICE) for _ in range(2)]
    rows = [_draw(shape, tokens, dtype) * size for size in (0.37, 1e-7)]
    rows[0][:, 0] = 0.0
    counts = torch.tensor([7, before, 9], device=DEVICE)
    wanted = [[each.clone() for each in buffers] for buffers in (codes, scales)]
    for which, step in itertools.product(range(2), range(tokens)):
        row, slot = rows[which][:, :, step].float(), (before + step) % shape[2]
        scale = (row.abs().amax(-1) / 127).half()
        fraction = row / scale.float().clamp_min(2**-14).unsqueeze(-1)
        wanted[0][which][:, :, slot] = fraction.round().to(torch.int8)
        wanted[1][which][:, :, slot] = scale

    append_scaled([*codes, *scales], rows, counts[1:2])

    assert all(torch.equal(*pair) for pair in zip([*codes, *scales], sum(wanted, []), strict=True))
    assert counts.tolist() == [7, before + tokens, 9]
    assert spies["scaled_kernel"].launches == (op._kernel is not None)


def test_rows_that_do_not_fit_are_refused() -> None:
    buffer, count = torch.zeros(1, 2, 3, 4), torch.zeros(1, dtype=torch.int64)
    for wrong in (torch.zeros(1, 1, 1, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 1, 4).half()):
        with pytest.raises(ValueError, match="do not fit"):
            append([buffer], [wrong], count)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of codes of infinity
@pytest.mark.parametrize("stored", ["both", "one", "8 bits"])
def test_one_bad_value_is_noted_while_rows_are_stored(stored: str, spies: dict[str, Spy]) -> None:
    tokens, dtype = 3, torch.bfloat16
    torch.manual_seed(tokens)
    shape, count = (2, 3, 20, 20), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    streams = [_draw((2, 3, tokens, 20), tokens, dtype) * 300 for _ in range(2)]
    buffers = [torch.zeros(shape, dtype=dtype, device=DEVICE) for _ in range(2)]
    codes = [torch.zeros(shape, dtype=torch.int8, device=DEVICE) for _ in range(2)]
    scales = [torch.zeros(shape[:3], dtype=torch.float16, device=DEVICE) for _ in range(2)]

    def noted(total: torch.Tensor) -> torch.Tensor:
        if stored == "8 bits":
            append_scaled([*codes, *scales], streams, count, Look(total))
        elif stored == "one":
            append(buffers[:1], streams[:1], count, Look(total, streams[1]))
        else:
            append(buffers, streams, count, Look(total))
        return total

    assert float(noted(torch.zeros((), device=DEVICE))) == 0.0
    ran = 1
    bad_values = (torch.nan, (0, 0, 0, 0)), (torch.inf, (1, 2, 2, 19)), (-torch.inf, (1, 0, 1, 7))
    for which, (bad, place) in itertools.product((0, 1), bad_values):
        total, original = torch.zeros((), device=DEVICE), streams[which][place].clone()
        streams[which][place] = bad
        noted(total)
        streams[which][place] = original
        assert bool(noted(total).isnan())
        ran += 2
    name = "scaled_kernel" if stored == "8 bits" else "append_kernel"
    assert spies[name].launches == (ran if op._kernel is not None else 0)
    assert int(count) == ran * tokens


def test_one_bad_value_of_a_chunk_is_enough() -> None:
    key, value, total = torch.ones(1, 2, 40, 4), torch.ones(1, 2, 40, 4), torch.zeros(())
    note_finite(key, value, total)
    assert float(total) == 0.0
    value[0, 1, 39, 3] = torch.inf
    note_finite(key, value, total)
    assert bool(total.isnan())
