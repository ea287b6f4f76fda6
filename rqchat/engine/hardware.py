"""What this machine can compute on, and how much memory it has. No torch: it would cost seconds.

NVIDIA cards are asked for through `nvidia-smi`, AMD cards through the files that the `amdgpu`
driver keeps in sysfs, main memory through `/proc` and the control group's limit.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rqchat.engine.settings import Settings, visible_gpus
from rqchat.errors import UsageError

__all__ = ["DeviceInfo", "choose_device", "cpu_device", "find_devices", "planned_card"]

_MIB = 2**20
_QUERY = ("--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
_PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device that a model can be loaded on.

    Attributes:
        name: as its driver calls it.
        total_bytes: memory it has.
        free_bytes: memory that nobody uses at the moment.
        source: where the figures come from, such as `nvidia-smi` or `--vram`.
        torch_name: what torch calls it: `cpu` or `cuda:N`.
    """

    name: str
    total_bytes: int
    free_bytes: int
    source: str
    torch_name: str = "cuda:0"

    @property
    def is_gpu(self) -> bool:
        """Whether it has memory of its own."""
        return self.torch_name != "cpu"


def find_devices() -> tuple[DeviceInfo, ...]:
    """Every GPU in torch's order, then the CPU."""
    gpus = _nvidia_gpus() or _amd_gpus(Path("/sys/class/drm"))
    return (*gpus, cpu_device())


def planned_card(vram_bytes: int) -> DeviceInfo:
    """A card that need not be there, for `--vram` and `RQCHAT_VRAM`: all its memory is free."""
    return DeviceInfo("planned GPU", vram_bytes, vram_bytes, "--vram")


def choose_device(settings: Settings, devices: Sequence[DeviceInfo]) -> DeviceInfo:
    """The device that `settings.device` names; `auto` is the GPU with the most free memory.

    Raises:
        UsageError: no such device.
    """
    wanted = settings.device.strip().lower()
    gpus = [device for device in devices if device.is_gpu]
    if wanted == "auto":
        return max(gpus, key=lambda gpu: gpu.free_bytes) if gpus else devices[-1]
    for device in devices:
        if wanted in (device.torch_name, device.torch_name.partition(":")[0]):
            return device
    found = ", ".join(device.torch_name for device in devices)
    raise UsageError(f"--device is {settings.device!r}; this machine has {found} (or 'auto')")


def cpu_device() -> DeviceInfo:
    """The processor with the main memory that this process may use."""
    total, free = _main_memory_bytes(Path("/proc/meminfo"))
    limit, used = _cgroup_bytes(Path("/sys/fs/cgroup"))
    if limit is not None:
        total, free = min(total, limit), min(free, max(limit - used, 0))
    return DeviceInfo(_cpu_name(Path("/proc/cpuinfo")), total, free, "main memory", "cpu")


def _nvidia_gpus() -> list[DeviceInfo]:
    try:
        answer = subprocess.run(
            ("nvidia-smi", *_QUERY),
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_nvidia_smi(answer.stdout, visible_gpus())


def parse_nvidia_smi(table: str, visible: Sequence[str] | None) -> list[DeviceInfo]:
    """Cards in an `index, uuid, name, total MiB, free MiB` table.

    `visible` lists indices or UUIDs in the order torch numbers them, as CUDA_VISIBLE_DEVICES does;
    None shows all. Cards whose memory the driver does not tell are left out.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    rows = [row for row in rows if len(row) == 5 and row[3].isdigit() and row[4].isdigit()]
    if visible is not None:
        rows = [
            row
            for wanted in visible
            for row in rows
            if wanted == row[0] or (len(wanted) > 4 and row[1].startswith(wanted))
        ]
    return [
        DeviceInfo(name, int(total) * _MIB, int(free) * _MIB, "nvidia-smi", f"cuda:{position}")
        for position, (_, _, name, total, free) in enumerate(rows)
    ]


def _amd_gpus(folder: Path) -> list[DeviceInfo]:
    found: list[DeviceInfo] = []
    for total_file in sorted(folder.glob("card[0-9]*/device/mem_info_vram_total")):
        try:
            total = int(total_file.read_text())
            used = int(total_file.with_name("mem_info_vram_used").read_text())
        except (OSError, ValueError):
            continue
        name = _first_line(total_file.with_name("product_name")) or "AMD GPU"
        found.append(DeviceInfo(name, total, total - used, "amdgpu", f"cuda:{len(found)}"))
    return found


def _main_memory_bytes(meminfo: Path) -> tuple[int, int]:
    """Total and available bytes."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        total, free = (int(lines[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
        return total * 1024, free * 1024
    except (OSError, KeyError, ValueError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total // 2


def _cgroup_bytes(folder: Path) -> tuple[int | None, int]:
    """Limit (None without one) and use of this control group, version 2."""
    try:
        limit = int((folder / "memory.max").read_text())
        return limit, int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None, 0


def _cpu_name(cpuinfo: Path) -> str:
    try:
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].partition(":")[2].strip() if names else "CPU"


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip().partition("\n")[0]
    except OSError:
        return ""
