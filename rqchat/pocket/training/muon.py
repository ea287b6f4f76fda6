"""Muon in float32, all matrices of a shape at once.

torch's own works in bfloat16, one matrix after another: without bf16 instructions its step takes
longer than forward and backward of the pocket model together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon"]

# Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon): quintic Newton-Schulz.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """[n, rows, columns] with all singular values brought near 1."""
    # x @ x.mT is smaller with the short side first.
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    # The iteration needs singular values of at most 1, and the norm bounds them all.
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step is made orthogonal; larger for tall matrices.

    Args:
        parameters: matrices of a network's linear layers.
        lr: step length, in units of the spectral norm.
        momentum: of the gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, from the gradients as they are."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, members in shapes.items():
                steps = [self._direction(parameter, group["momentum"]) for parameter in members]
                length = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, step in zip(members, orthogonal(torch.stack(steps)), strict=True):
                    parameter.add_(step, alpha=-length)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        gradient = parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)
