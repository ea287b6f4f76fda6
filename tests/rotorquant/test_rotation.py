"""Rotations: orthogonal, inverted, and commuting with the rotary embedding."""

from __future__ import annotations

import pytest
import torch

from rotorquant.errors import ConfigError
from rotorquant.rotation import make_rotation

CPU = torch.device("cpu")


@pytest.mark.parametrize("head_dim", [8, 64, 128, 512])
def test_the_rotation_is_orthogonal_and_inverted(head_dim: int) -> None:
    rotation = make_rotation("planar", head_dim, 42, CPU)
    matrix = rotation.apply(torch.eye(head_dim))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(head_dim), atol=1e-6, rtol=0)
    assert (matrix - torch.eye(head_dim)).abs().max() > 0.5
    vectors = torch.randn(7, head_dim)
    torch.testing.assert_close(rotation.invert(rotation.apply(vectors)), vectors, atol=2e-6, rtol=0)


def test_the_rotation_commutes_with_rope() -> None:
    head_dim = 32
    rotation = make_rotation("planar", head_dim, 1, CPU)
    angles = torch.randn(head_dim // 2)

    def rope(vectors: torch.Tensor) -> torch.Tensor:
        turned = torch.cat((-vectors[..., head_dim // 2 :], vectors[..., : head_dim // 2]), dim=-1)
        return vectors * angles.cos().repeat(2) + turned * angles.sin().repeat(2)

    vectors = torch.randn(5, head_dim)
    torch.testing.assert_close(
        rotation.apply(rope(vectors)), rope(rotation.apply(vectors)), atol=2e-6, rtol=0
    )


def test_the_seed_decides() -> None:
    vectors = torch.randn(3, 64)
    first, again, other = (
        make_rotation("planar", 64, seed, CPU).apply(vectors) for seed in (42, 42, 43)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="'iso'.*planar"):
        make_rotation("iso", 64, 42, CPU)
