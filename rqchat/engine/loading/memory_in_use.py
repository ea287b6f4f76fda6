"""Memory that this process holds, in bytes: on a GPU through torch, else its resident size."""

from __future__ import annotations

import gc
import os
import resource
import sys
from pathlib import Path

import torch

from rqchat.engine.planning.devices import DeviceInfo

__all__ = ["peak_bytes", "release_unused", "used_bytes"]

_STATM = Path("/proc/self/statm")  # Linux; second number: resident pages (proc(5))


def peak_bytes(device: DeviceInfo) -> int:
    """The most that torch's allocator took of a GPU; on a CPU the process's peak resident size.

    Metal tells what it holds now, and no peak.
    """
    if device.torch_name == "mps":
        return torch.mps.driver_allocated_memory()
    if device.is_gpu:
        return torch.cuda.max_memory_reserved(device.torch_name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux KiB.
    return peak if sys.platform == "darwin" else peak * 1024


def used_bytes(device: DeviceInfo) -> int:
    """Bytes that torch has taken of a GPU; on a CPU the resident size now, off Linux its peak."""
    if device.torch_name == "mps":
        return torch.mps.driver_allocated_memory()
    if device.is_gpu:
        return torch.cuda.memory_reserved(device.torch_name)
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return peak_bytes(device)


def release_unused() -> None:
    """Gives memory of a model that nobody uses any more back to the device."""
    # Fused layers refer to themselves (`fuse_layers`), so counting references frees no such model.
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
