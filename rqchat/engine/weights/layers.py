"""How each rung of the ladder keeps a linear layer, and what a model keeps in all."""

from __future__ import annotations

import torch
from torch import nn

from rqchat.engine.weights.bitsandbytes_layers import stored_tensors
from rqchat.engine.weights.grid import INT2, INT4, INT8_ROWS, Grid

__all__ = ["DTYPES", "GRIDS", "module_bytes"]

GRIDS: dict[str, Grid] = {"int8": INT8_ROWS, "int4": INT4, "int2": INT2}
"""Rungs of packed matrices; bitsandbytes makes the layers of all others that have codes."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Rungs without codes."""


def module_bytes(model: nn.Module) -> int:
    """Bytes of everything a model keeps, shared storage once.

    Computed buffers and bitsandbytes' shared code tables are left out.
    """
    seen: dict[int, int] = {}
    for module in model.modules():
        for tensor in _tensors_of(module):
            seen[tensor.data_ptr()] = tensor.nbytes
    return sum(seen.values())


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    weight = getattr(module, "weight", None)
    if hasattr(weight, "SCB") or hasattr(weight, "quant_state"):
        bias = [] if module.bias is None else [module.bias]
        return stored_tensors(module) + [tensor for tensor in bias if torch.is_tensor(tensor)]
    computed = module._non_persistent_buffers_set
    buffers = [b for name, b in module.named_buffers(recurse=False) if name not in computed]
    return [*module.parameters(recurse=False), *buffers]
