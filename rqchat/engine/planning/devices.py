"""Which device to use: the GPUs that drivers tell of, the CPU, or a card that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rqchat.engine.planning.gpu_bandwidth import bandwidth_of, typical_card
from rqchat.engine.planning.gpus import DeviceInfo, find_gpus
from rqchat.engine.planning.main_memory import main_memory_bytes
from rqchat.engine.settings import Settings
from rqchat.errors import UsageError

__all__ = [
    "DeviceInfo",
    "choose_device",
    "cpu_device",
    "device_for",
    "find_devices",
    "planned_card",
]


def find_devices() -> tuple[DeviceInfo, ...]:
    """Every GPU, then the CPU."""
    return (*find_gpus(), cpu_device())


def planned_card(vram_bytes: int) -> DeviceInfo:
    """A card that need not be there, for `--vram` and `RQCHAT_VRAM`: all its memory is free.

    The speed of memory is that of a common card of this size, which is named.
    """
    card = typical_card(vram_bytes)
    speed = bandwidth_of(card) if card else 0
    return DeviceInfo(
        "planned GPU", vram_bytes, vram_bytes, "--vram", bandwidth=speed, stands_for=card
    )


def choose_device(settings: Settings, devices: Sequence[DeviceInfo]) -> DeviceInfo:
    """The device that `settings.device` names; `auto` and `cuda` are the GPU with most free memory.

    Raises:
        UsageError: no such device.
    """
    wanted = settings.device.strip().lower()
    gpus = [device for device in devices if device.is_gpu]
    if wanted == "auto":
        # `find_devices` puts the CPU last.
        return max(gpus, key=lambda gpu: gpu.free_bytes) if gpus else devices[-1]
    exact = [device for device in devices if device.torch_name == wanted]
    of_kind = [device for device in devices if device.torch_name.partition(":")[0] == wanted]
    if exact or of_kind:
        return exact[0] if exact else max(of_kind, key=lambda device: device.free_bytes)
    found = ", ".join(device.torch_name for device in devices)
    raise UsageError(f"--device is {settings.device!r}; this machine has {found} (or 'auto')")


def device_for(settings: Settings) -> DeviceInfo:
    """The device to load on; `--vram` limits what may be used of it.

    Raises:
        UsageError: no such device.
    """
    device = choose_device(settings, find_devices())
    if device.is_gpu:
        device = replace(device, host_free_bytes=main_memory_bytes()[1])
    if settings.vram_bytes is None:
        return device
    return replace(
        device,
        total_bytes=settings.vram_bytes,
        free_bytes=min(settings.vram_bytes, device.free_bytes),
        source="--vram",
    )


def cpu_device() -> DeviceInfo:
    """The processor with the main memory that this process may use."""
    total, free = main_memory_bytes()
    return DeviceInfo(_cpu_name(Path("/proc/cpuinfo")), total, free, "main memory", "cpu")


def _cpu_name(cpuinfo: Path) -> str:
    try:
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].partition(":")[2].strip() if names else "CPU"
