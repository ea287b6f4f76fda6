"""What a model keeps, counted module by module, beside what the loader says."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rqchat.engine.weights.cpu_linear4 import CpuLinear4
from rqchat.engine.weights.cpu_matrix import CpuHead, CpuLinear8

__all__ = ["module_bytes"]


def module_bytes(model: nn.Module) -> int:
    """Bytes of everything a model keeps, shared storage once.

    Computed buffers and bitsandbytes' shared code tables are left out.
    """
    seen: dict[int, int] = {}
    for module in model.modules():
        for tensor in _tensors_of(module):
            seen[tensor.data_ptr()] = tensor.nbytes
    packed = [getattr(module, "packed", None) for module in model.modules()]
    opaque = [each.copy if isinstance(each, CpuHead) else each for each in packed]
    return sum(seen.values()) + sum(
        each.nbytes for each in opaque if isinstance(each, CpuLinear4 | CpuLinear8)
    )


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    weight = getattr(module, "weight", None)
    if hasattr(weight, "SCB") or hasattr(weight, "quant_state"):
        bias = [] if module.bias is None else [module.bias]
        return _stored_tensors(module) + [tensor for tensor in bias if torch.is_tensor(tensor)]
    computed = module._non_persistent_buffers_set
    buffers = [b for name, b in module.named_buffers(recurse=False) if name not in computed]
    return [*module.parameters(recurse=False), *buffers]


def _stored_tensors(layer: nn.Module) -> list[torch.Tensor]:
    """What the layer keeps of the weight: codes and statistics, without the shared code tables."""
    weight: Any = layer.weight
    if hasattr(weight, "SCB"):
        return [weight.data, weight.SCB]
    state = weight.quant_state
    return [weight.data, state.absmax, state.offset, state.state2.absmax]
