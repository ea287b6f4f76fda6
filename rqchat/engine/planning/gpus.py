"""GPUs as their drivers describe them, without torch, whose import would cost seconds.

NVIDIA cards through NVML where the package nvidia-ml-py is installed, else through `nvidia-smi`;
AMD cards through the files that the `amdgpu` driver keeps in sysfs; Apple's through `sysctl`.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from rqchat.engine.planning.gpu_bandwidth import bandwidth_of, memory_bandwidth
from rqchat.engine.planning.gpu_troubles import (
    GpuTrouble,
    driver_trouble,
    is_unified,
    memory_trouble,
)
from rqchat.engine.planning.main_memory import main_memory_bytes
from rqchat.engine.settings import visible_gpus

try:
    import pynvml
except ImportError:
    pynvml = cast("Any", None)

__all__ = ["DeviceInfo", "find_gpus", "gpu_troubles", "nvidia_driver", "parse_nvidia_smi"]

_MIB = 2**20
_CUDA_VISIBLE, _HIP_VISIBLE = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
_PROBE_TIMEOUT_S = 10.0
_CARDS = "--query-gpu=index,uuid,name,memory.total,memory.free,compute_cap"
_AS_TABLE = ("--format=csv,noheader,nounits",)
_USERS = "--query-compute-apps=gpu_uuid,process_name,used_memory"
# What Metal lets one program keep in use of the memory that CPU and GPU share
_METAL_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device that a model can be loaded on.

    Attributes:
        name: as its driver calls it.
        total_bytes: memory it has.
        free_bytes: memory that nobody uses at the moment.
        source: where the figures come from, such as `nvidia-smi` or `--vram`.
        torch_name: what torch calls it: `cpu`, `mps` or `cuda:N`.
        capability: NVIDIA's compute capability such as (8, 6); None where there is none.
        users: other programs on it, such as `firefox (312 MiB)`.
        bandwidth: bytes per second that its memory can be read with; 0 where unknown.
        stands_for: the card whose bandwidth that is, where only a size is known.
        host_free_bytes: main memory that is available beside it; None where nobody looked, as for
            a card that need not be there.
    """

    name: str
    total_bytes: int
    free_bytes: int
    source: str
    torch_name: str = "cuda:0"
    capability: tuple[int, int] | None = None
    users: tuple[str, ...] = ()
    bandwidth: int = 0
    stands_for: str = ""
    host_free_bytes: int | None = None

    @property
    def has_own_memory(self) -> bool:
        """Whether weights in main memory would spare the device's: not where that is one and the
        same, and not where no kernel can read it."""
        return self.torch_name.startswith("cuda") and self.source != "main memory"

    @property
    def has_kernels(self) -> bool:
        """Whether attention and tiles of packed weights run as our kernels: they ask for 99 KiB of
        shared memory. sm_75 and AMD's cards have 64, Metal has no Triton."""
        if not self.torch_name.startswith("cuda") or self.source == "amdgpu":
            return False
        return self.capability is None or self.capability >= (8, 0)

    @property
    def lacks(self) -> str:
        """Why a GPU runs torch's own code in place of attention kernels; else empty."""
        if self.has_kernels or not self.is_gpu:
            return ""
        if self.torch_name == "mps":
            return "Metal has no Triton: torch's own code runs, slower and with more workspace"
        return (
            "it has 64 KiB of shared memory and the attention kernels ask for up to 99: torch's own"
            " code runs instead, slower and with more workspace"
        )

    @property
    def is_gpu(self) -> bool:
        """Whether this is a GPU, or the processor."""
        return self.torch_name != "cpu"


def find_gpus() -> tuple[DeviceInfo, ...]:
    """Every GPU; NVIDIA's in the order of their bus, which `order_gpus_by_bus` sets for torch."""
    found = _nvml_gpus() or _smi_gpus() or _amd_gpus(Path("/sys/class/drm")) or _apple_gpu()
    return tuple(found)


def gpu_troubles() -> tuple[GpuTrouble, ...]:
    """What keeps NVIDIA's cards, or some of them, from being found."""
    if pynvml is not None and _nvml_gpus():
        return ()
    try:
        done = subprocess.run(
            ["nvidia-smi", _CARDS, *_AS_TABLE],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return (driver_trouble(f"nvidia-smi does not answer within {_PROBE_TIMEOUT_S:.0f} s"),)
    except OSError:
        return ()
    if done.returncode:
        return (driver_trouble(done.stdout.strip() or done.stderr),)
    return tuple(
        memory_trouble(name, total if not _number(total) else free)
        for _, _, name, total, free, _ in _cells(done.stdout, 6)
        if _smi_memory_bytes(name, total, free) is None
    )


def nvidia_driver() -> str | None:
    """Version of NVIDIA's driver, such as `570.86`; None without one."""
    answer = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return answer.strip().partition("\n")[0] or None


def _nvml_gpus() -> list[DeviceInfo]:
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        handles = [(card, part) for card in cards for part in (card, *_nvml_slices(card))]
        # A slice has no index; CUDA_VISIBLE_DEVICES names it by its UUID.
        known = [
            (str(cards.index(card)) if part is card else "", str(pynvml.nvmlDeviceGetUUID(part)))
            for card, part in handles
        ]
        order = _as_cuda_has_it(_visible_order(known, visible_gpus(_CUDA_VISIBLE)), handles)
        return [_nvml_gpu(*handles[row], f"cuda:{place}") for place, row in enumerate(order)]
    except pynvml.NVMLError:
        return []  # a card whose memory NVML does not tell: nvidia-smi may
    finally:
        pynvml.nvmlShutdown()


def _nvml_slices(card: Any) -> list[Any]:
    """The slices of a card that is shared out (MIG, multi-instance GPU); none of any other."""
    try:
        if not pynvml.nvmlDeviceGetMigMode(card)[0]:
            return []
        count = pynvml.nvmlDeviceGetMaxMigDeviceCount(card)
    except pynvml.NVMLError:
        return []  # a card that knows no slices
    found = []
    for index in range(count):
        with suppress(pynvml.NVMLError):  # fewer were made than there could be
            found.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index))
    return found


def _as_cuda_has_it(order: Sequence[int], handles: Sequence[tuple[Any, Any]]) -> list[int]:
    """The (card, part) pairs that CUDA enumerates: where a card is cut, one of its slices alone."""
    sliced = {id(card) for card, part in handles if part is not card}
    cut = [row for row in order if id(handles[row][0]) in sliced]
    if not cut:
        return list(order)
    card, part = handles[cut[0]]
    if part is not card:
        return cut[:1]
    return [row for row, (of, one) in enumerate(handles) if of is card and one is not card][:1]


def _nvml_gpu(card: Any, part: Any, torch_name: str) -> DeviceInfo:
    """`part` of `card`: itself, or a slice, which has its share of the card's bandwidth."""
    name = str(pynvml.nvmlDeviceGetName(part))
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(part)
        total, free, source = int(memory.total), int(memory.free), "NVML"
    except pynvml.NVMLError:
        if not is_unified(name):
            raise
        (total, free), source = main_memory_bytes(), "main memory"
    try:
        clock_mhz = pynvml.nvmlDeviceGetMaxClockInfo(card, pynvml.NVML_CLOCK_MEM)
        bandwidth = memory_bandwidth(clock_mhz, pynvml.nvmlDeviceGetMemoryBusWidth(card))
    except pynvml.NVMLError:
        bandwidth = bandwidth_of(name)
    if part is not card:
        bandwidth = bandwidth * total // int(pynvml.nvmlDeviceGetMemoryInfo(card).total)
    return DeviceInfo(
        name,
        total,
        free,
        source,
        torch_name,
        tuple(pynvml.nvmlDeviceGetCudaComputeCapability(card)),
        _nvml_users(part),
        bandwidth,
    )


def _nvml_users(handle: Any) -> tuple[str, ...]:
    try:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        running += pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle)
        # By number, because a program that computes and draws stands in both lists.
        named = {
            process.pid: (pynvml.nvmlSystemGetProcessName(process.pid), process.usedGpuMemory or 0)
            for process in running
            if process.pid != os.getpid()
        }
    except pynvml.NVMLError:
        return ()  # processes of other users or of other containers
    return _users(named.values())


def _users(named: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    largest = sorted(named, key=lambda item: -item[1])
    return tuple(f"{Path(name).name} ({used / 2**20:.0f} MiB)" for name, used in largest)


def _smi_gpus() -> list[DeviceInfo]:
    table = _run("nvidia-smi", _CARDS, *_AS_TABLE)
    users = _run("nvidia-smi", _USERS, *_AS_TABLE) if table else ""
    return parse_nvidia_smi(table, visible_gpus(_CUDA_VISIBLE), users)


def parse_nvidia_smi(
    table: str, visible: Sequence[str] | None, users: str = ""
) -> list[DeviceInfo]:
    """Cards in an `index, uuid, name, total MiB, free MiB, capability` table.

    `visible` lists indices or UUIDs in the order torch numbers them, as CUDA_VISIBLE_DEVICES does;
    None shows all. Cards whose memory the driver does not tell are left out, but those that use the
    main memory. `users` is a table of `uuid, program, MiB`.
    """
    rows = _cells(table, 6)
    order = _visible_order([(row[0], row[1]) for row in rows], visible)
    programs = [row for row in _cells(users, 3) if _number(row[2])]
    found = []
    for place, (_, uuid, name, total, free, capability) in enumerate(rows[i] for i in order):
        memory = _smi_memory_bytes(name, total, free)
        if memory is None:
            continue
        card = DeviceInfo(
            name,
            *memory,
            "nvidia-smi" if _number(total) else "main memory",
            f"cuda:{place}",
            _capability(capability),
            _users((name, int(mib) * _MIB) for owner, name, mib in programs if owner == uuid),
            bandwidth_of(name),
        )
        found.append(card)
    return found


def _smi_memory_bytes(name: str, total: str, free: str) -> tuple[int, int] | None:
    """Total and free bytes of a row; None where they are not told."""
    total_mib, free_mib = _number(total), _number(free)
    if total_mib and free_mib is not None:
        return total_mib * _MIB, free_mib * _MIB
    return main_memory_bytes() if is_unified(name) else None


def _cells(table: str, columns: int) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines()]
    return [row for row in rows if len(row) == columns]


def _number(text: str) -> int | None:
    """A whole number as a driver prints it; None for anything else that stands in its place."""
    return int(text) if re.fullmatch("[0-9]{1,12}", text) else None


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    numbers = _number(major), _number(minor)
    return None if None in numbers else numbers  # type: ignore[return-value]


def _visible_order(cards: Sequence[tuple[str, str]], visible: Sequence[str] | None) -> list[int]:
    """Which of the (index, UUID) pairs are shown, and in which order.

    As CUDA has it, nothing is shown from the first one on that does not exist.
    """
    if visible is None:
        return list(range(len(cards)))
    order = []
    for wanted in visible:
        rows = [
            row
            for row, (index, uuid) in enumerate(cards)
            # CUDA takes the beginning of a UUID as well; "GPU-" alone would be the one of all.
            if wanted == index or (len(wanted) > 4 and uuid.startswith(wanted))
        ]
        if not rows:
            break
        order += rows
    return order


def _amd_gpus(folder: Path) -> list[DeviceInfo]:
    found: list[DeviceInfo] = []
    files = folder.glob("card[0-9]*/device/mem_info_vram_total")
    for total_file in sorted(files, key=lambda file: int(file.parts[-3].removeprefix("card"))):
        try:
            total = int(total_file.read_text())
            used = int(total_file.with_name("mem_info_vram_used").read_text())
        except (OSError, ValueError):
            continue
        name = _first_line(total_file.with_name("product_name")) or "AMD GPU"
        device = DeviceInfo(name, total, total - used, "amdgpu")
        found.append(replace(device, bandwidth=bandwidth_of(name)))
    numbers = [(str(index), "") for index in range(len(found))]
    order = _visible_order(numbers, visible_gpus(_HIP_VISIBLE, _CUDA_VISIBLE))
    # ROCm's torch calls its devices CUDA as well.
    return [replace(found[row], torch_name=f"cuda:{place}") for place, row in enumerate(order)]


def _apple_gpu() -> list[DeviceInfo]:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return []
    total = _run("sysctl", "-n", "hw.memsize").strip()
    if not total.isdigit():
        return []
    name = _run("sysctl", "-n", "machdep.cpu.brand_string").strip() or "Apple GPU"
    usable = int(_METAL_SHARE * int(total))
    return [DeviceInfo(name, int(total), usable, "sysctl", "mps", bandwidth=bandwidth_of(name))]


def _run(*command: str) -> str:
    """What the command prints; nothing where it is missing, fails or hangs."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip().partition("\n")[0]
    except OSError:
        return ""
