"""Linears of 4-bit codes on a CPU: against the matrix that their codes stand for."""

from __future__ import annotations

import pytest
import torch

from rqchat.engine.weights.cpu_matrix import linear_for_cpu
from rqchat.engine.weights.fit import fit
from rqchat.engine.weights.grid import INT3, INT4, Grid
from rqchat.engine.weights.modules import PackedLinear


@pytest.mark.parametrize("grid", [INT4, INT3], ids=["int4", "int3"])
@pytest.mark.parametrize("rows", [1, 200])
def test_the_codes_are_kept_and_activations_have_8_bits(grid: Grid, rows: int) -> None:
    matrix = fit(torch.randn(rows, 192, generator=torch.Generator().manual_seed(rows)), grid)
    values = matrix.dequantize()
    layer = PackedLinear(linear_for_cpu(matrix), torch.ones(rows).bfloat16())
    assert (layer.out_features, layer.in_features) == (rows, 192)

    # A group with a single number in it loses nothing
    torch.testing.assert_close(layer.packed.dequantize(), values, rtol=1e-6, atol=1e-6)
    for tokens in (1, 3, 300):
        x = torch.randn(2, tokens, 192, generator=torch.Generator().manual_seed(1))
        wanted, found = x @ values.mT, layer(x) - 1
        assert float((found - wanted).norm() / wanted.norm()) < 0.02  # measured 0.005 to 0.011
        assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_what_is_no_number_stays_where_it_is() -> None:
    layer = PackedLinear(linear_for_cpu(fit(torch.randn(64, 64), INT4)))
    x = torch.randn(4, 64)
    x[1, 40], x[2, 3], x[3, 0] = torch.nan, torch.inf, -torch.inf

    finite = layer(x).isfinite()

    assert finite[0].all() and not finite[1:].any()
    assert layer(torch.zeros(1, 64)).eq(0).all()
