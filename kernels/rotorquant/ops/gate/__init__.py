"""The gate of an MLP: gelu(gate) * up, in one launch."""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.gate import reference

__all__ = ["gelu_gate"]

_kernel = dispatch.find_kernel(__name__)


@dispatch.on_one_device
def gelu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gelu(gate) * up of tensors [..., N] of one shape and dtype, gelu in its tanh form.

    What gelu gives is rounded to the dtype before the product, as it is where the steps are apart.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(f"gate {tuple(gate.shape)} and up {tuple(up.shape)} do not fit")
    if _kernel is not None and dispatch.on_gpu(gate) and gate.numel() > 0:
        product: torch.Tensor = _kernel.gelu_gate(gate, up)
        return product
    return reference.gelu_gate(gate, up)
