"""The weight kernels against the dense product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rqchat.engine.weights.fit import fit
from rqchat.engine.weights.grid import INT2, INT3, INT4, INT8_ROWS, Grid, Packed
from rqchat.engine.weights.kernels import multiply as multiply_module
from rqchat.engine.weights.kernels.multiply import (
    multiply,
    multiply_experts,
    multiply_gated,
    multiply_joined,
)
from rqchat.engine.weights.modules import (
    PackedEmbedding,
    PackedExperts,
    PackedLinear,
    PackedMatrix,
)
from tests.rotorquant.ops.kernels import DEVICE, Spy, poison

pytest.importorskip("triton", reason="triton is not installed")

from rqchat.engine.weights.kernels import experts as expert_kernel
from rqchat.engine.weights.kernels import linear as kernel

GRIDS = pytest.mark.parametrize(
    "grid", [INT4, INT3, INT2, INT8_ROWS], ids=lambda grid: str(grid.bits)
)


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    """`multiply` takes its kernels, whose outputs are poisoned and launches counted."""
    spies = {}
    for module in (kernel, expert_kernel):
        for name in (name for name in module.__all__ if name.endswith("_kernel")):
            spies[name] = Spy(getattr(module, name))
            monkeypatch.setattr(module, name, spies[name])
    monkeypatch.setattr(multiply_module, "_kernel", kernel)
    monkeypatch.setattr(multiply_module, "_expert_kernel", expert_kernel)
    monkeypatch.setattr(multiply_module, "on_gpu", lambda tensor: True)
    poison(monkeypatch)
    return spies


def packed(grid: Grid, rows: int, columns: int) -> Packed:
    torch.manual_seed(rows * columns)
    return fit(torch.randn(rows, columns, device=DEVICE), grid)


@GRIDS
@pytest.mark.parametrize(
    ("rows", "taken"),
    [(1, "gemv"), (4, "gemv"), (5, "dot"), (65, "dequantize")],
)
def test_products_equal_the_dense_ones(
    grid: Grid, rows: int, taken: str, spies: dict[str, Spy]
) -> None:
    weight = packed(grid, 20 if taken == "gemv" else 70, 192)  # blocks of 8, and of more
    x = torch.randn(rows, 192, device=DEVICE)

    found = multiply(x, weight)

    # Other orders of 192 float32 sums, whose terms the kernels hold raised by up to 2**bits + code
    torch.testing.assert_close(found, x @ weight.dequantize().T, atol=2e-4, rtol=1e-5)
    assert {name for name, spy in spies.items() if spy.launches} == {f"{taken}_kernel"}


def test_long_sums_are_split_and_add_up(spies: dict[str, Spy]) -> None:
    weight, x = packed(INT4, 16, 2048), torch.randn(6, 2048, device=DEVICE)

    found = multiply(x, weight)

    # As above, of 2,048 sums: some 3e-5 of products up to 120
    torch.testing.assert_close(found, x @ weight.dequantize().T, atol=3e-4, rtol=1e-5)
    assert torch.equal(multiply(x, weight), found)


@pytest.mark.parametrize("rows", [1, 6])
def test_outputs_have_the_dtype_and_shape_of_inputs(rows: int, spies: dict[str, Spy]) -> None:
    weight, x = packed(INT4, 33, 64), torch.randn(1, rows, 64, device=DEVICE).bfloat16()

    found = multiply(x, weight)

    assert (found.dtype, found.shape) == (torch.bfloat16, (1, rows, 33))
    # 2**-7: a bfloat16's step; the interpreter cuts where a card rounds
    exact = x.float() @ weight.dequantize().T
    torch.testing.assert_close(found.float(), exact, atol=2e-2, rtol=2**-7)


@GRIDS
def test_a_large_matrix_is_unpacked_in_parts(
    grid: Grid, spies: dict[str, Spy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiply_module, "_SCRATCH_VALUES", 128 * 10)
    weight, x = packed(grid, 25, 128), torch.randn(65, 128, device=DEVICE)

    found = multiply(x, weight)

    torch.testing.assert_close(found, x @ weight.dequantize().T, atol=1e-4, rtol=1e-5)
    assert spies["dequantize_kernel"].launches == 3


@GRIDS
def test_layers_with_one_input_are_one_launch(grid: Grid, spies: dict[str, Spy]) -> None:
    weights = [packed(grid, rows, 192) for rows in (18, 9, 4)]
    x, fields = torch.randn(2, 192, device=DEVICE), grid.fields
    ordered = x.unflatten(-1, (-1, fields)).mT.flatten(-2)

    found = [multiply_joined(ordered, weights[:count]) for count in (1, 2, 3)]
    gated = multiply_gated(ordered, packed(grid, 16, 192), packed(grid, 16, 192), fields)

    for parts in found:
        for part, weight in zip(parts, weights, strict=False):
            torch.testing.assert_close(part, x @ weight.dequantize().T, atol=2e-4, rtol=1e-5)
    product = x @ packed(grid, 16, 192).dequantize().T
    wanted = torch.nn.functional.gelu(product, approximate="tanh") * product
    wanted = wanted.unflatten(-1, (-1, fields)).mT.flatten(-2)
    torch.testing.assert_close(gated, wanted, atol=5e-3, rtol=1e-4)
    assert (spies["gemv_kernel"].launches, spies["gated_gemv_kernel"].launches) == (3, 1)


def test_no_rows_make_no_launch(spies: dict[str, Spy]) -> None:
    assert multiply(torch.empty(0, 64, device=DEVICE), packed(INT4, 8, 64)).shape == (0, 8)


@GRIDS
@pytest.mark.parametrize(
    ("rows", "top", "taken"), [(1, 5, "gemv"), (3, 2, "gemv"), (9, 4, "dot"), (70, 2, "dot")]
)
def test_each_row_meets_its_experts(
    grid: Grid, rows: int, top: int, taken: str, spies: dict[str, Spy]
) -> None:
    experts, outputs = 11, 20 if taken == "gemv" else 40
    weight = packed(grid, experts * outputs, 128)
    x = torch.randn(rows, 128, device=DEVICE)
    # The last one has no row, and the first many
    chosen = torch.randint(-4, experts - 1, (rows * top,), device=DEVICE).clamp(min=0)

    found = multiply_experts(x, weight, experts, chosen)

    dense = weight.dequantize().view(experts, outputs, 128)
    expected = torch.einsum("soc,sc->so", dense[chosen], x.repeat_interleave(top, 0))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-5)
    assert {name for name, spy in spies.items() if spy.launches} == {f"expert_{taken}_kernel"}


def test_experts_that_are_all_one(spies: dict[str, Spy]) -> None:
    weight, x = packed(INT4, 3 * 40, 64), torch.randn(50, 64, device=DEVICE)

    found = multiply_experts(x, weight, 3, torch.full((50,), 2, device=DEVICE))

    torch.testing.assert_close(found, x @ weight.dequantize()[80:].T, atol=2e-4, rtol=1e-5)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="would take 8.6 GB of the card")
@pytest.mark.parametrize("slots", [1, 33])
def test_offsets_go_beyond_31_bits(slots: int, spies: dict[str, Spy], tmp_path: Path) -> None:
    """A file with holes stands for 8.6 GB of words, and the last expert lies at their end."""
    experts, outputs, words = 2**15, 64, 1028
    rows = experts * outputs
    path = tmp_path / "words"
    with path.open("wb") as file:
        file.truncate(rows * words * 4)
    codes = torch.from_file(str(path), shared=True, size=rows * words, dtype=torch.int32)
    weight = Packed(INT8_ROWS, codes.view(rows, words), torch.zeros(rows, 1).bfloat16())
    last = weight.rows(slice(rows - outputs, rows))
    assert (rows - outputs) * words > 2**31
    last.words.random_(2**31 - 1)
    last.scale.fill_(2**-10)
    x = torch.randn(1, words * 4).expand(slots, -1)

    found = multiply_experts(x, weight, experts, torch.full((slots,), experts - 1))

    # Float32 sums of 4,112 products
    torch.testing.assert_close(found, x @ last.dequantize().T, atol=1e-4, rtol=1e-5)


class _NoWaits(TorchDispatchMode):
    """Fails at operators whose result, or its shape, the host has to wait for."""

    WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal"}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, name
        if name.startswith("index"):
            masks = [leaf for leaf in tree_leaves(args[1:]) if torch.is_tensor(leaf)]
            assert not any(mask.dtype == torch.bool for mask in masks), f"{name} by a mask"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tokens", [1, 16])
def test_a_step_waits_for_nothing(tokens: int, spies: dict[str, Spy]) -> None:
    linear = PackedLinear(packed(INT4, 24, 64), torch.zeros(24, device=DEVICE))
    scale = torch.tensor(8.0, device=DEVICE)
    embedding = PackedEmbedding(packed(INT8_ROWS, 40, 64), scale, torch.float32)
    experts = PackedExperts(6, torch.nn.functional.gelu)
    experts.gate_up_proj = PackedMatrix(packed(INT4, 6 * 2 * 32, 64))
    experts.down_proj = PackedMatrix(packed(INT4, 6 * 64, 32))
    ids = torch.arange(tokens, device=DEVICE)
    chosen = torch.randint(6, (tokens, 3), device=DEVICE)
    shares = torch.rand(tokens, 3, device=DEVICE)

    with _NoWaits():
        states = embedding(ids)
        found = linear(experts(states, chosen, shares))

    assert found.isfinite().all()
    with pytest.raises(AssertionError, match="nonzero"), _NoWaits():
        (chosen == 1).nonzero()
