"""Rotations are orthogonal, invertible, and commute with RoPE on the pairs that they keep."""

from __future__ import annotations

import itertools

import pytest
import torch

from rotorquant.codec.hadamard import signed_hadamard
from rotorquant.codec.quaternions import random_quaternions, sandwich
from rotorquant.codec.rotation import HadamardRotation, make_rotation
from rotorquant.config import MODES
from rotorquant.exceptions import ConfigError

CPU = torch.device("cpu")
BLADES = (0b000, 0b001, 0b010, 0b100, 0b011, 0b101, 0b110, 0b111)  # 1, e1 e2 e3, e12 e13 e23, e123


def product(one: dict[int, float], two: dict[int, float]) -> dict[int, float]:
    """The geometric product of Cl(3,0): swaps to sort the factors give the sign, squares are 1."""
    result = dict.fromkeys(BLADES, 0.0)
    for (a, x), (b, y) in itertools.product(one.items(), two.items()):
        swaps = sum(
            (a >> place).bit_count() - (a >> place & 1) for place in range(3) if b >> place & 1
        )
        result[a ^ b] += (-1) ** swaps * x * y
    return result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head_dim", [8, 128, 512])
@pytest.mark.parametrize("share", [0, 8, 2])
def test_the_rotation_is_orthogonal_and_inverted(mode: str, head_dim: int, share: int) -> None:
    rotation = make_rotation(mode, head_dim, 42, CPU, head_dim // share if share else 0)
    matrix = rotation.apply(torch.eye(head_dim))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(head_dim), atol=1e-6, rtol=0)
    assert (matrix - torch.eye(head_dim)).abs().max() > 0.5
    vectors = torch.randn(7, head_dim)
    # Float32 rounding of values up to four or so.
    torch.testing.assert_close(rotation.invert(rotation.apply(vectors)), vectors, atol=4e-6, rtol=0)


@pytest.mark.parametrize(("mode", "pairs"), [("planar", 16), ("aligned", 16), ("aligned", 4)])
def test_it_commutes_with_rope_on_as_many_pairs_as_it_says(mode: str, pairs: int) -> None:
    head_dim = 32
    rotation = make_rotation(mode, head_dim, 1, CPU, pairs)
    assert rotation.pairs == pairs
    angles = torch.randn(head_dim // 2)
    angles[pairs:] = 0

    def rope(vectors: torch.Tensor) -> torch.Tensor:
        turned = torch.cat((-vectors[..., head_dim // 2 :], vectors[..., : head_dim // 2]), dim=-1)
        return vectors * angles.cos().repeat(2) + turned * angles.sin().repeat(2)

    vectors = torch.randn(5, head_dim)
    torch.testing.assert_close(
        rotation.apply(rope(vectors)), rope(rotation.apply(vectors)), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("mode", "block"), [("iso", 4), ("iso-full", 4), ("rotor", 3), ("hadamard", 64), ("haar", 64)]
)
def test_a_channel_reaches_its_block_and_nothing_else(mode: str, block: int) -> None:
    matrix = make_rotation(mode, 64, 42, CPU).apply(torch.eye(64))
    assert make_rotation(mode, 64, 42, CPU).pairs == 0
    at = torch.arange(64) // block
    inside = at[:, None] == at
    assert (matrix[~inside] == 0).all()
    last = 63 if mode == "rotor" else 64  # 64 = 21 x 3 + 1: a line has no rotation
    assert (matrix[:last, :last][inside[:last, :last]].abs() > 1e-9).all()
    assert mode != "rotor" or matrix[63, 63] == 1


def test_the_rotor_is_the_sandwich_of_the_algebra() -> None:
    rotors = torch.randn(6, 4, dtype=torch.float64)
    rotors /= rotors.norm(dim=-1, keepdim=True)
    vectors = torch.randn(6, 3, dtype=torch.float64)
    given = (sandwich(rotors) @ vectors.unsqueeze(-1)).squeeze(-1)
    for rotor, vector, turned in zip(rotors.tolist(), vectors.tolist(), given, strict=True):
        s, b12, b13, b23 = rotor
        forward = {0b000: s, 0b011: b12, 0b101: b13, 0b110: b23}
        back = {0b000: s, 0b011: -b12, 0b101: -b13, 0b110: -b23}
        grade_one = dict(zip((0b001, 0b010, 0b100), vector, strict=True))
        result = product(product(forward, grade_one), back)
        assert [result[blade] for blade in (0b001, 0b010, 0b100)] == pytest.approx(turned.tolist())
        # The slot that the published code stores holds nothing.
        assert result[0b111] == pytest.approx(0.0, abs=1e-12)


def test_fast_quaternions_are_isoclinic_and_full_ones_are_not() -> None:
    """Left multiplication turns every vector by one angle, whose cosine is the real part."""
    draw = torch.Generator().manual_seed(1)
    vectors = torch.randn(50, 4, dtype=torch.float64)
    vectors /= vectors.norm(dim=-1, keepdim=True)
    spread = [
        ((vectors @ random_quaternions(1, full, draw)[0]) * vectors).sum(-1).std()
        for full in (False, True)
    ]
    assert spread[0] < 1e-12
    assert spread[1] > 0.05


@pytest.mark.parametrize("size", [1, 2, 12, 20, 24, 72, 96, 384, 512])
def test_a_hadamard_matrix_spreads_every_channel_evenly(size: int) -> None:
    factors = signed_hadamard(size)
    assert factors is not None
    whole = torch.kron(*(torch.tensor(factor) for factor in factors))
    assert (whole.abs() == 1).all()
    assert torch.equal(whole @ whole.T, size * torch.eye(size, dtype=torch.int64))


def test_the_three_hundred_and_eighty_four_are_mixed_by_hadamard() -> None:
    """Gemma 4 31B: 64 rotary pairs of 256, so 384 dimensions without a position."""
    rotation = make_rotation("aligned", 512, 42, CPU, 64)
    matrix = rotation.apply(torch.eye(512))
    free = torch.arange(512) % 256 >= 64
    torch.testing.assert_close(
        matrix[free][:, free].abs(), torch.full((384, 384), 384**-0.5), atol=1e-7, rtol=0
    )
    assert (matrix[free][:, ~free] == 0).all()


def test_without_a_hadamard_matrix_aligned_mixes_by_haar_and_hadamard_refuses() -> None:
    assert not isinstance(make_rotation("aligned", 56, 42, CPU), HadamardRotation)
    with pytest.raises(ConfigError, match="56 values"):
        make_rotation("hadamard", 56, 42, CPU)


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_decides(mode: str) -> None:
    vectors = torch.randn(3, 64)
    first, again, other = (
        make_rotation(mode, 64, seed, CPU, 8).apply(vectors) for seed in (42, 42, 43)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="'spin'; allowed are aligned, planar, iso"):
        make_rotation("spin", 64, 42, CPU)
