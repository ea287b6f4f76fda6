"""An image tower that lies in main memory and comes to the GPU for a picture, part by part."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["bring_when_used"]


def bring_when_used(tower: nn.Module, device: torch.device) -> None:
    """Each module of `tower` has its own tensors on `device` while it runs, and no longer.

    1.15 GB of the 31B then take as much of the device as the largest of them, and a picture takes
    as long as they need over the link: a tenth of a second, where reading it takes longer.
    """
    for module in tower.modules():
        if any(True for _ in _own_tensors(module)):
            visit = _Visit(device)
            module.register_forward_pre_hook(visit.begin)
            # Also after an error, such as memory that ran out
            module.register_forward_hook(visit.end, always_call=True)


class _Visit:
    """The tensors of one module that lie in main memory while copies stand in for them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._left: list[tuple[dict[str, Any], str, torch.Tensor]] = []

    def begin(self, module: nn.Module, inputs: Any) -> None:
        for tensors, name, tensor in [*_own_tensors(module)]:
            if tensor.device != self._device:
                self._left.append((tensors, name, tensor))
                copy = tensor.to(self._device, non_blocking=True)
                is_parameter = isinstance(tensor, nn.Parameter)
                tensors[name] = nn.Parameter(copy, False) if is_parameter else copy

    def end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        for tensors, name, tensor in self._left:
            tensors[name] = tensor
        self._left.clear()


def _own_tensors(module: nn.Module) -> Any:
    """(where it is kept, its name, the tensor) of each that is the module's own."""
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None:
                yield tensors, name, tensor
