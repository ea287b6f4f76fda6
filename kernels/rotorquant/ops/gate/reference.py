"""Specification of the gate op: gelu in its tanh form (Hendrycks and Gimpel 2016), times `up`.

gelu(x) = x / 2 (1 + tanh(u)) = x / (1 + exp(-2 u)),    u = sqrt(2 / pi) (x + 0.044715 x^3)
"""

from __future__ import annotations

import torch
from torch.nn.functional import gelu

__all__ = ["gelu_gate"]


def gelu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gelu(gate) * up, each step rounded to the dtype of the tensors."""
    return gelu(gate, approximate="tanh") * up
