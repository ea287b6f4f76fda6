"""Products on a CPU: against the matrix that their codes stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rqchat.engine.planning.formats import weights_of
from rqchat.engine.weights import cpu_matrix
from rqchat.engine.weights.cpu_matrix import CpuInt4, CpuInt8, CpuLinear8, for_cpu, linear_for_cpu
from rqchat.engine.weights.fit import fit
from rqchat.engine.weights.grid import INT2, INT3, INT4, INT8_ROWS, Grid, Packed
from rqchat.engine.weights.modules import PackedEmbedding, PackedLinear


def packed(grid: Grid, rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> Packed:
    found = fit(torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)), grid)
    return replace(found, scale=found.scale.to(dtype))


@pytest.mark.parametrize("grid", [INT4, INT3, INT8_ROWS], ids=["int4", "int3", "int8"])
@pytest.mark.parametrize("rows", [64, 200])  # of which no tile is filled
@pytest.mark.parametrize("tokens", [1, 3, 300])  # of which many go through the dense matrix
def test_a_product_is_that_of_the_values(grid: Grid, rows: int, tokens: int) -> None:
    matrix = packed(grid, rows, 192)
    values = matrix.dequantize()
    layer = PackedLinear(for_cpu(matrix), torch.ones(rows).bfloat16())
    x = torch.randn(2, tokens, 192, generator=torch.Generator().manual_seed(1)).bfloat16()

    out = layer(x)

    assert (layer.out_features, layer.in_features) == (rows, 192)
    assert out.shape == (2, tokens, rows) and out.dtype == torch.bfloat16
    expected = x.float() @ values.mT
    # Rounded to bfloat16 twice (measured 0.004 beyond); some processors round factors as well
    torch.testing.assert_close(out.float(), expected + 1, rtol=2**-7, atol=0.03)
    assert torch.equal(layer.packed.dequantize(), values)


def test_what_is_kept_are_the_bytes_of_the_plan() -> None:
    for grid, name in ((INT4, "int4"), (INT3, "int3")):
        layer = PackedLinear(for_cpu(packed(grid, 200, 192)))
        kept = sum(buffer.nbytes for buffer in layer.buffers())
        assert kept == weights_of(name).on_cpu.of_experts.matrix_bytes(200, 192)
        linear4 = linear_for_cpu(packed(grid, 200, 192))
        assert linear4.nbytes == weights_of(name).on_cpu.matrix_bytes(200, 192)
    linear = CpuLinear8.of(for_cpu(packed(INT8_ROWS, 200, 96)))
    assert linear is not None
    assert linear.nbytes == weights_of("int8").on_cpu.matrix_bytes(200, 96)
    assert torch.equal(linear.dequantize(), packed(INT8_ROWS, 200, 96).dequantize())


def test_an_order_of_codes_that_nobody_knows_is_never_taken_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = packed(INT4, 64, 64)
    x = torch.randn(300, 64).bfloat16()
    expected = CpuInt4.of(matrix).product(x)
    monkeypatch.setattr(cpu_matrix, "_tile_rows", lambda: 0)

    found = CpuInt4.of(matrix).product(x)

    torch.testing.assert_close(found, expected, rtol=2**-7, atol=0.02)


def test_scales_of_16_bits_are_rounded_by_half_a_bit_of_bfloat16() -> None:
    matrix = packed(INT4, 64, 64, torch.float16)

    found = CpuInt4.of(matrix).dequantize()

    torch.testing.assert_close(found, matrix.dequantize(), rtol=2**-8, atol=0)


def test_only_the_rows_of_an_embedding_that_are_asked_for_are_unpacked() -> None:
    matrix = packed(INT8_ROWS, 40, 64)
    values = matrix.dequantize()
    table = for_cpu(matrix)
    assert isinstance(table, CpuInt8)
    embedding = PackedEmbedding(table, torch.tensor(8.0), torch.float32)

    assert torch.equal(embedding(torch.tensor([[3, 1]])), 8 * values[[3, 1]].unsqueeze(0))
    assert torch.equal(embedding.weight[3, :], values[3])


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_head_keeps_more_of_x_than_bfloat16_would(tokens: int) -> None:
    table = for_cpu(packed(INT8_ROWS, 200, 96))
    head = CpuLinear8.of(table)
    assert head is not None
    x = torch.randn(tokens, 96, generator=torch.Generator().manual_seed(1))
    x[:, 3] *= 50  # a channel far beyond the others, as models have them
    wanted = x @ table.dequantize().mT

    def error(found: torch.Tensor) -> float:
        return float((found - wanted).norm() / wanted.norm())

    assert error(head.product(x)) < min(2e-3, error(table.product(x)))
    assert head.product(x.bfloat16()).dtype == torch.bfloat16
    assert head.product(torch.zeros(1, 96)).eq(0).all()
    x[0, 0] = torch.nan
    assert head.product(x)[0].isnan().all() and head.product(x)[1:].isfinite().all()


def test_a_grid_without_a_product_stays_as_it_is() -> None:
    matrix = packed(INT2, 64, 64, torch.float16)
    assert for_cpu(matrix) is matrix
