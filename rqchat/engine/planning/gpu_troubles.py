"""Why a GPU that is there cannot be used, and what mends it, from what its driver says."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["GpuTrouble", "driver_trouble", "is_unified", "memory_trouble"]

# Chips that have no memory of their own: NVML and nvidia-smi then tell of none
_UNIFIED = re.compile(
    r"\b(GB10|DGX Spark|N1X?|Jetson|Orin|Thor|Xavier|Tegra|nvgpu)\b", re.IGNORECASE
)
_SHARED = (
    "the card is shared out (MIG, a container): start the container with --gpus, name your slice in"
    " CUDA_VISIBLE_DEVICES, or ask whoever runs the machine for access to /dev/nvidia*"
)
_RESTART = "restart the machine; if it stays so, reinstall the NVIDIA driver"
# What NVIDIA's tools say, and what to do then; the first that matches is taken
_REMEDIES = (
    (
        "version mismatch",
        "the driver was updated, and the old one is still loaded: restart the machine; in a"
        " container, restart that",
    ),
    (
        "couldn't communicate|driver not loaded|driver is not loaded",
        "load the driver with 'sudo modprobe nvidia'; if that fails, reinstall it for the kernel"
        " that runs, and mind Secure Boot",
    ),
    ("insufficient permissions|no permission|permission denied", _SHARED),
    (
        "no devices were found|not supported by the installed driver",
        "install a driver that knows this card; in a container, start that with --gpus all",
    ),
    ("requires reset", "sudo nvidia-smi --gpu-reset, or restart the machine"),
    ("is lost|fallen off the bus|device handle", "restart the machine; dmesg says more (Xid)"),
    ("blocked by the operating system", "update NVIDIA's driver in Windows, then: wsl --shutdown"),
    ("unknown error", f"start the container anew, which has lost the card; else {_RESTART}"),
)


@dataclass(frozen=True, slots=True)
class GpuTrouble:
    """One GPU, or the driver of all, that cannot be used.

    Attributes:
        detail: what was found.
        remedy: what mends it.
    """

    detail: str
    remedy: str


def is_unified(name: str) -> bool:
    """Whether a chip of this name uses the main memory."""
    return _UNIFIED.search(name) is not None


def driver_trouble(said: str) -> GpuTrouble:
    """Of a driver that fails, by what its tool said last."""
    line = " ".join(said.split()) or "nvidia-smi failed without a word"
    return GpuTrouble(f"the NVIDIA driver fails: {line[:200]}", _remedy(line))


def memory_trouble(name: str, said: str) -> GpuTrouble:
    """Of a card that says `[N/A]` or the like where its memory should stand."""
    reason = said.strip("[] ") or "nothing"
    return GpuTrouble(f"{name} does not tell its memory ({reason})", _remedy(reason))


def _remedy(said: str) -> str:
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, said, re.IGNORECASE):
            return remedy
    return f"run nvidia-smi, which has to show the card with its memory; {_RESTART}"
