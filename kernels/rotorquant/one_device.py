"""The card that kernels are launched on, for packages that have some (`ops.dispatch`)."""

from __future__ import annotations

from rotorquant.ops.dispatch import current_device, on_one_device

__all__ = ["current_device", "on_one_device"]
