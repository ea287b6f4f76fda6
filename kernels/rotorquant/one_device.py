"""What code above the ops needs of a card: to launch kernels on it, and to send tensors there."""

from __future__ import annotations

import torch

from rotorquant.ops.dispatch import current_device, has_shared, on_one_device

__all__ = ["current_device", "has_shared", "on_one_device", "send"]


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`, without a wait for what runs there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # the host waits for copies out of other memory
    return tensor.to(device, non_blocking=True)
