"""What a process may take of a GPU: what was free when the plan was made, and no more."""

from __future__ import annotations

import torch

from rqchat.engine.memory import GPU_CONTEXT_BYTES, LEFT_FREE_BYTES
from rqchat.engine.plan import MemoryPlan
from rqchat.engine.settings import order_gpus_by_bus
from rqchat.errors import ModelError

__all__ = ["claim_device"]


def claim_device(plan: MemoryPlan) -> None:
    """Holds torch to the plan's device: a load that takes too much fails, and no desktop with it.

    Call it before anything else touches the GPU, whose number it settles.

    Raises:
        ModelError: torch sees fewer GPUs than their driver.
    """
    order_gpus_by_bus()
    device = plan.device
    if not device.torch_name.startswith("cuda") or not torch.cuda.is_available():
        return
    number, count = torch.device(device.torch_name).index or 0, torch.cuda.device_count()
    if number >= count:
        raise ModelError(
            f"{device.name} is there as {device.torch_name}, but torch sees {count} GPUs; leave"
            " CUDA_VISIBLE_DEVICES unset, or name another one with --device"
        )
    allowed = device.free_bytes - GPU_CONTEXT_BYTES - LEFT_FREE_BYTES
    whole = torch.cuda.get_device_properties(device.torch_name).total_memory
    share = min(max(allowed / whole, 0.0), 1.0)
    torch.cuda.set_per_process_memory_fraction(share, device.torch_name)
