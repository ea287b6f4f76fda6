"""The small ops of a layer: references against the model's own modules, kernels against them."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma4.modeling_gemma4 import Gemma4RMSNorm, apply_rotary_pos_emb

from rotorquant.ops import norm
from rotorquant.ops.gate import gelu_gate
from rotorquant.ops.heads import Stream, norm_heads
from rotorquant.ops.norm import Norm, norm_add
from tests.rotorquant.ops.kernels import DEVICE, Spy, force_kernels

pytest.importorskip("triton", reason="triton is not installed")


# Triton's interpreter cuts a bfloat16 off where a GPU rounds it to the nearest.
KINDS = [torch.float32, torch.float16] + [torch.bfloat16] * torch.cuda.is_available()
EPS = 1e-6


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    return force_kernels(monkeypatch, "norm.norm_kernel", "gate.gate_kernel", "heads.heads_kernel")


def close(own: torch.Tensor, wanted: torch.Tensor) -> None:
    """One unit in the last place, of the largest of a row where rounded terms are added."""
    assert own.dtype == wanted.dtype
    unit = 2 * torch.finfo(own.dtype).eps * wanted.abs().amax(-1, keepdim=True).float()
    assert bool(((own.float() - wanted.float()).abs() <= unit).all())


def draw(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(shape, device=DEVICE) * 3).to(dtype)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("columns", [1, 48, 256, 5376])
def test_norms_and_sums(dtype: torch.dtype, columns: int, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(columns)
    rows, residual = draw(2, 3, columns, dtype=dtype), draw(2, 3, columns, dtype=dtype)
    rows[0, 0] = 0.0
    module = Gemma4RMSNorm(columns, eps=EPS).to(DEVICE, dtype)
    other = Gemma4RMSNorm(columns, eps=1e-5, with_scale=False)
    with torch.no_grad():
        module.weight.copy_(torch.randn(columns))
        by, then = Norm(module.weight.detach(), EPS), Norm(None, 1e-5)
        factor = torch.tensor([0.37], device=DEVICE, dtype=dtype)
        normed = module(rows)
        total = (residual + normed) * factor
        wanted = normed, total, other(total), residual + normed
    for forced in (False, True):
        spies = request.getfixturevalue("_forced") if forced else {}
        close(norm.norm(rows, by), wanted[0])
        both = norm_add(rows, by, residual, factor, then)
        close(both[0], wanted[1])
        assert both[1] is not None
        close(both[1], wanted[2])
        plain, none = norm_add(rows.transpose(0, 1), by, residual.transpose(0, 1))
        assert none is None
        close(plain, wanted[3].transpose(0, 1))
    assert spies["norm_kernel"].launches == 3


@pytest.mark.parametrize("dtype", KINDS)
def test_the_gate(dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
    given = draw(3, 1365, dtype=dtype), draw(3, 1365, dtype=dtype)
    given[0][0, :4] = torch.tensor([-60.0, 60.0, 0.0, -9.0])
    wanted = gelu_gate(*given)
    spies = request.getfixturevalue("_forced")
    close(gelu_gate(*given), wanted)
    assert spies["gate_kernel"].launches == 1


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(("head_dim", "tied"), [(16, False), (256, False), (512, True)])
def test_heads(
    dtype: torch.dtype, head_dim: int, tied: bool, request: pytest.FixtureRequest
) -> None:
    torch.manual_seed(head_dim)
    query, raw = draw(2, 3, 4, head_dim, dtype=dtype), draw(2, 3, 4, head_dim, dtype=dtype)
    key, value = (raw[:, :, :2], raw[:, :, :2] if tied else raw[:, :, 2:])
    weights = draw(2, head_dim, dtype=dtype)
    angles = torch.rand(2 - tied, 3, head_dim // 2, device=DEVICE).repeat(1, 1, 2) * 6
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    streams = [
        Stream(query, weights[0], True), Stream(key, weights[1], True), Stream(value, None, False)
    ]  # fmt: skip
    wanted = []
    for rows, weight, turned, _ in streams:
        module = Gemma4RMSNorm(head_dim, eps=EPS, with_scale=weight is not None)
        if weight is not None:
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
        normed = module(rows)
        wanted.append(apply_rotary_pos_emb(normed, cos, sin, unsqueeze_dim=2) if turned else normed)
    for forced in (False, True):
        spies = request.getfixturevalue("_forced") if forced else {}
        for own, other in zip(norm_heads(streams, cos, sin, EPS), wanted, strict=True):
            close(own, other)
        (alone,) = norm_heads([streams[0]._replace(wide=True)], cos, sin, EPS)
        close(alone.to(dtype), wanted[0])
        assert torch.equal(alone, alone.to(dtype).float())
    assert spies["heads_kernel"].launches == 2


def test_what_does_not_fit_is_refused() -> None:
    rows = torch.zeros(1, 3, 2, 8)
    angles = torch.zeros(1, 3, 8)
    with pytest.raises(ValueError, match="residual"):
        norm_add(rows, Norm(None, EPS), rows[..., :4])
    with pytest.raises(ValueError, match="gate"):
        gelu_gate(rows, rows[..., :4])
    with pytest.raises(ValueError, match="one to three"):
        norm_heads([], angles, angles, EPS)
    with pytest.raises(ValueError, match="rows"):
        norm_heads([Stream(rows, None, True), Stream(rows[:, :2], None, True)], angles, angles, EPS)
    with pytest.raises(ValueError, match="cos"):
        norm_heads([Stream(rows, None, True)], angles[..., :4], angles, EPS)
