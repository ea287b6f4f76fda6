"""How each rung of the ladder keeps a linear layer, and how many bytes that takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from rqchat.engine.weights.bitsandbytes_layers import bitsandbytes_linear, stored_tensors
from rqchat.engine.weights.fit import fit
from rqchat.engine.weights.grid import INT2, INT4, Grid, Packed
from rqchat.engine.weights.modules import PackedLinear

__all__ = ["DTYPES", "GRIDS", "linear_bytes", "make_linear", "module_bytes"]

GRIDS: dict[str, Grid] = {"int4": INT4, "int2": INT2}
"""Rungs with a packed grid of our own."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Rungs without codes."""


def make_linear(
    weights: str, weight: torch.Tensor | Packed, bias: torch.Tensor | None, dtype: torch.dtype
) -> nn.Module:
    """A quantized layer on the device of `weight`, which is packed only where `weights` is int4."""
    if isinstance(weight, Packed):
        return PackedLinear(weight, bias)
    if weights in GRIDS:
        return PackedLinear(fit(weight, GRIDS[weights]), bias)
    return bitsandbytes_linear(weight.to(dtype), bias, weights)


def linear_bytes(weights: str, rows: int, columns: int) -> int:
    """Bytes that a layer's weight will take; bitsandbytes' shared code tables do not count."""
    if weights in GRIDS:
        return GRIDS[weights].nbytes(rows, columns)
    count = rows * columns
    if weights == "int8":
        return count + 4 * rows
    blocks = -(-count // 64)
    return -(-count // 2) + blocks + 4 * -(-blocks // 256) + 4


def module_bytes(model: nn.Module) -> int:
    """Bytes of everything a model keeps, shared storage once, computed buffers left out."""
    seen: dict[int, int] = {}
    for module in model.modules():
        for tensor in _tensors_of(module):
            seen[tensor.data_ptr()] = tensor.nbytes
    return sum(seen.values())


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    weight = getattr(module, "weight", None)
    if hasattr(weight, "SCB") or hasattr(weight, "quant_state"):
        bias = getattr(module, "bias", None)
        return [*stored_tensors(module), *([] if bias is None else [bias])]
    kept: Callable[[str], bool] = lambda name: name not in module._non_persistent_buffers_set  # noqa: E731
    buffers = [buffer for name, buffer in module.named_buffers(recurse=False) if kept(name)]
    return [*module.parameters(recurse=False), *buffers]
