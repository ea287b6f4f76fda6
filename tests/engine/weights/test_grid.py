"""Packing and fitting: the bytes, the codes, and how near the fit comes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rqchat.engine.weights.fit import fit, fit_rows
from rqchat.engine.weights.grid import INT2, INT3, INT4, INT8_ROWS, Grid, Packed
from rqchat.engine.weights.modules import PackedEmbedding, PackedLinear
from rqchat.errors import ModelError

GRIDS = pytest.mark.parametrize(
    "grid", [INT4, INT3, INT2, INT8_ROWS], ids=lambda grid: str(grid.bits)
)


def error_of(weight: torch.Tensor, grid: Grid) -> float:
    found = fit(weight, grid).dequantize()
    return float((found - weight).square().sum() / weight.square().sum())


@GRIDS
@given(rows=st.integers(1, 5), groups=st.integers(1, 3), seed=st.integers(0, 99))
def test_codes_survive_packing(grid: Grid, rows: int, groups: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    columns = groups * (grid.group or 8)
    codes = torch.randint(1 << grid.bits, (rows, columns), generator=generator, dtype=torch.uint8)
    scale = torch.ones(rows, columns // grid.group_of(columns), dtype=torch.float16)

    packed = Packed.pack(grid, codes, scale, scale if grid.has_offset else None)

    assert torch.equal(packed.codes(), codes)
    assert packed.words.dtype == torch.int32
    assert packed.nbytes == grid.nbytes(rows, columns)


def test_words_hold_codes_from_the_lowest_bits_up() -> None:
    codes = torch.arange(32, dtype=torch.uint8).remainder(16)[None]
    packed = Packed.pack(INT4, codes, torch.ones(1, 1), None)

    assert [word & 0xFFFFFFFF for word in packed.words[0].tolist()] == [
        0x76543210, 0xFEDCBA98, 0x76543210, 0xFEDCBA98,
    ]  # fmt: skip


def test_a_matrix_that_came_from_the_grid_finds_it_again() -> None:
    codes = torch.randint(-8, 8, (64, 256), generator=torch.Generator().manual_seed(1))
    scale = torch.rand(64, 8, 1, generator=torch.Generator().manual_seed(2)).half() + 0.01
    weight = (codes.unflatten(-1, (8, 32)) * scale).flatten(-2).float()

    assert error_of(weight, INT4) < 1e-6
    # Google's unquantized QAT weights are the products rounded to bfloat16: 2**-9 of a value
    assert error_of(weight.bfloat16().float(), INT4) < 2e-6


@pytest.mark.parametrize(
    ("grid", "most"),
    # Measured 0.0076, 0.1035 (2 bits) and 9.6e-5 on 512 x 1536 normal values; Lloyd-Max, no scales:
    # 0.0095, 0.0345 and 0.1175 (J. Max, 1960)
    [(INT4, 0.008), (INT3, 0.041), (INT2, 0.105), (INT8_ROWS, 1e-4)],
    ids=["4", "3", "2", "8"],
)
def test_the_error_on_normal_values(grid: Grid, most: float) -> None:
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))

    assert 0 < error_of(weight, grid) < most


@GRIDS
def test_odd_values_stay_finite(grid: Grid) -> None:
    weight = torch.zeros(4, 64)
    weight[1], weight[2, 0], weight[3] = 3.0, -500.0, torch.linspace(1e-6, 2e-6, 64)

    found = fit(weight, grid).dequantize()

    torch.testing.assert_close(found[0], weight[0], atol=1e-7, rtol=0)  # the least step
    # 1 % is half a step of 4 bits over, 2**-8 of 8
    torch.testing.assert_close(found[1], weight[1], rtol=0.01, atol=0)
    assert found.isfinite().all()
    assert float(found[2, 0]) == pytest.approx(-500, rel=0.01)


@pytest.mark.parametrize(
    "columns", [384, 192]
)  # groups of 128, and of 64 where those do not divide
def test_outputs_err_less_where_their_inputs_are_known(columns: int) -> None:
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(48, columns, generator=generator)
    # Inputs that lie near a few directions, as those of a model do
    mixed = torch.randn(columns // 8, columns, generator=generator)
    inputs = torch.randn(2000, columns // 8, generator=generator) @ mixed
    inputs += 0.3 * torch.randn(2000, columns, generator=generator)
    group = INT3.group_of(columns)
    apart = inputs.unflatten(-1, (-1, group)).transpose(0, 1)

    rows, device = weight.shape[0], weight.device
    plain, fitted = (
        fit_rows(
            lambda part: weight[part.start : part.stop], rows, columns, INT3, device, moments=each
        )
        for each in (None, apart.mT @ apart)
    )

    assert fitted.nbytes == plain.nbytes == INT3.nbytes(*weight.shape)
    lost = [
        float((inputs @ (packed.dequantize() - weight).T).square().sum())
        for packed in (plain, fitted)
    ]
    assert lost[1] < 0.6 * lost[0]


def test_inputs_that_are_always_0_do_no_harm() -> None:
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(7))
    nothing = torch.zeros(1, 128, 128)

    found = fit_rows(
        lambda part: weight[part.start : part.stop], 8, 128, INT3, weight.device, moments=nothing
    )

    assert torch.equal(found.codes(), fit(weight, INT3).codes())


def test_parts_of_a_matrix_are_fitted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(70, 64, generator=torch.Generator().manual_seed(3))
    whole = fit(weight, INT2)
    monkeypatch.setattr("rqchat.engine.weights.grid._CPU_PART_VALUES", 64 * 16)

    assert torch.equal(fit(weight, INT2).words, whole.words)


def test_groups_that_do_not_divide_the_columns_are_refused() -> None:
    with pytest.raises(ModelError, match=r"96 inputs.*2-bit groups of 64.*--weights"):
        fit(torch.randn(4, 96), INT2)


def test_a_packed_layer_stands_for_a_linear_one() -> None:
    packed = fit(torch.randn(24, 64, generator=torch.Generator().manual_seed(4)), INT4)
    bias = torch.arange(24.0)
    layer, x = PackedLinear(packed, bias), torch.randn(2, 3, 64)

    assert (layer.in_features, layer.out_features) == (64, 24)
    torch.testing.assert_close(layer(x), x @ packed.dequantize().T + bias)
    assert set(layer.state_dict()) == {"words", "scale", "bias"}


def test_a_packed_embedding_gives_scaled_rows() -> None:
    table = torch.randn(50, 64, generator=torch.Generator().manual_seed(5))
    packed = fit(table, INT8_ROWS)
    embedding = PackedEmbedding(packed, torch.tensor(8.0), torch.float32)
    ids = torch.tensor([[3, 49], [0, 3]])

    assert torch.equal(embedding(ids), packed.dequantize()[ids] * 8)
    # 127 codes to the largest value of a row: half a step of that
    torch.testing.assert_close(embedding(ids) / 8, table[ids], atol=0.02, rtol=0)
