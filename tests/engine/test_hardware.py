"""What the machine has, from the text that drivers give."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rqchat.engine import bandwidth, gpus, hardware
from rqchat.engine.bandwidth import bandwidth_of
from rqchat.engine.gpus import parse_nvidia_smi
from rqchat.engine.hardware import (
    DeviceInfo,
    choose_device,
    find_devices,
    planned_card,
)
from rqchat.engine.settings import Settings
from rqchat.errors import UsageError

_TABLE = """0, GPU-aaaa1111, NVIDIA GeForce RTX 3090, 24576, 24000, 8.6
1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559, 1000, 9.0
2, GPU-cccc3333, NVIDIA Something, [N/A], [N/A], [N/A]
"""
_PROGRAMS = """GPU-bbbb2222, /usr/bin/trainer, 80000
GPU-aaaa1111, /usr/lib/firefox, 300
GPU-aaaa1111, [Insufficient Permissions], [N/A]
"""
_CPU = DeviceInfo("CPU", 8, 4, "main memory", "cpu")


def test_nvidia_cards_are_read_in_mib() -> None:
    first, second = parse_nvidia_smi(_TABLE, None, _PROGRAMS)

    assert first == DeviceInfo(
        "NVIDIA GeForce RTX 3090",
        24_576 * 2**20,
        24_000 * 2**20,
        "nvidia-smi",
        "cuda:0",
        (8, 6),
        ("firefox (315 MB)",),
        936 * 10**9,
    )
    assert (second.torch_name, second.free_bytes) == ("cuda:1", 1000 * 2**20)
    assert second.users == ("trainer (83886 MB)",)


class _Nvml:
    """NVIDIA's management library over one RTX 4090, as nvidia-ml-py calls it."""

    NVML_CLOCK_MEM = 2

    class NVMLError(Exception):
        """What every call may raise."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.open = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetMigMode": (0, 0),
            "nvmlDeviceGetName": "NVIDIA GeForce RTX 4090",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * 2**30, free=20 * 2**30),
            "nvmlDeviceGetCudaComputeCapability": (8, 9),
            "nvmlDeviceGetMaxClockInfo": 10_501,
            "nvmlDeviceGetMemoryBusWidth": 384,
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=os.getpid(), usedGpuMemory=10**9),
                SimpleNamespace(pid=7, usedGpuMemory=2 * 10**9),
            ],
            "nvmlDeviceGetGraphicsRunningProcesses": [SimpleNamespace(pid=8, usedGpuMemory=None)],
        }

        def call(*arguments: Any) -> Any:
            if name == self.broken:
                raise self.NVMLError
            self.open += {"nvmlInit": 1, "nvmlShutdown": -1}.get(name, 0)
            if name == "nvmlSystemGetProcessName":
                return {7: "/opt/game", 8: "/usr/bin/desktop"}[arguments[0]]
            return answers.get(name)

        return call


def test_nvml_tells_more(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = _Nvml()
    monkeypatch.setattr(gpus, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    (found,) = gpus.find_gpus()

    assert found == DeviceInfo(
        "NVIDIA GeForce RTX 4090",
        24 * 2**30,
        20 * 2**30,
        "NVML",
        "cuda:0",
        (8, 9),
        ("game (2000 MB)", "desktop (0 MB)"),
        1_008_096_000_000,  # 2 x 10,501 MHz x 384 bits; the data sheet says 1,008 GB/s
    )
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("broken", "field", "value"),
    [
        ("nvmlDeviceGetMemoryBusWidth", "bandwidth", 1008 * 10**9),
        ("nvmlSystemGetProcessName", "users", ()),
    ],
)
def test_what_nvml_does_not_tell_is_done_without(
    monkeypatch: pytest.MonkeyPatch, broken: str, field: str, value: object
) -> None:
    monkeypatch.setattr(gpus, "pynvml", _Nvml(broken))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    assert getattr(gpus.find_gpus()[0], field) == value


@pytest.mark.parametrize("broken", ["nvmlInit", "nvmlDeviceGetMemoryInfo"])
def test_without_nvml_the_program_is_asked(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setattr(gpus, "pynvml", _Nvml(broken))
    monkeypatch.setattr(gpus, "_run", lambda *command: _TABLE if gpus._CARDS in command else "")

    assert [gpu.source for gpu in gpus.find_gpus()] == ["nvidia-smi"] * 2


class _SlicedNvml(_Nvml):
    """The same over two A100, the second of which is cut into two slices."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        gib = 2**30
        answers: dict[str, Callable[..., Any]] = {
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: ("card0", "card1")[index],
            "nvmlDeviceGetMigMode": lambda card: (int(card == "card1"), 0),
            "nvmlDeviceGetMaxMigDeviceCount": lambda card: 7,
            "nvmlDeviceGetUUID": lambda one: f"{'GPU' if 'card' in one else 'MIG'}-{one}",
            "nvmlDeviceGetName": lambda one: f"NVIDIA A100-SXM4-40GB {one}",
            "nvmlDeviceGetMaxClockInfo": lambda card, kind: 1215,
            "nvmlDeviceGetMemoryBusWidth": lambda card: 5120,
            "nvmlDeviceGetMemoryInfo": lambda one: SimpleNamespace(
                total=(40 if "card" in one else 10) * gib, free=9 * gib
            ),
        }

        def cut(card: str, index: int) -> str:
            if index > 1:
                raise self.NVMLError
            return f"slice{index}"

        answers["nvmlDeviceGetMigDeviceHandleByIndex"] = cut
        return answers.get(name, super().__getattr__(name))


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["slice0"]),
        ("MIG-slice1", ["slice1"]),
        ("0", ["card0"]),
        ("1", ["slice0"]),
        ("GPU-card0", ["card0"]),
        ("0,7,1", ["card0"]),  # nothing is shown from the first one on that does not exist
        ("", []),
    ],
)
def test_of_a_card_that_is_cut_cuda_shows_one_slice(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    monkeypatch.setattr(gpus, "pynvml", _SlicedNvml())
    monkeypatch.setattr(gpus, "_smi_gpus", lambda: [])
    monkeypatch.setattr(gpus, "_amd_gpus", lambda folder: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    found = gpus.find_gpus()

    assert [gpu.name.split()[-1] for gpu in found] == names
    assert [gpu.torch_name for gpu in found] == ["cuda:0"] * len(names)
    # 1,555 GB/s of the whole card, a quarter of its memory
    shares = {"card0": 1555.2e9, "slice0": 388.8e9, "slice1": 388.8e9}
    assert [gpu.bandwidth for gpu in found] == [shares[name] for name in names]


def test_an_apple_gpu_has_metals_share(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"hw.memsize": f"{64 * 2**30}\n", "machdep.cpu.brand_string": "Apple M3 Max\n"}
    monkeypatch.setattr(gpus, "pynvml", None)
    monkeypatch.setattr(gpus, "_amd_gpus", lambda folder: [])
    monkeypatch.setattr(gpus, "_run", lambda *command: answers.get(command[-1], ""))
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")

    (found,) = gpus.find_gpus()

    assert (found.name, found.torch_name, found.bandwidth) == ("Apple M3 Max", "mps", 400 * 10**9)
    assert found.free_bytes == int(0.7 * 64 * 2**30)
    assert found.is_gpu


@pytest.mark.parametrize(
    ("name", "gb_per_s"),
    [
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 672),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", 360),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA L40S", 864),
        ("A card of tomorrow", 0),
    ],
)
def test_bandwidth_goes_by_the_longest_name(name: str, gb_per_s: int) -> None:
    assert bandwidth_of(name) == gb_per_s * 10**9


@pytest.mark.parametrize(
    ("visible", "names"), [(["1", "0"], ["H100", "3090"]), (["GPU-bbbb"], ["H100"]), ([], [])]
)
def test_hidden_cards_are_left_out_and_numbered_as_torch_does(
    visible: list[str], names: list[str]
) -> None:
    found = parse_nvidia_smi(_TABLE, visible)

    assert [name in gpu.name for gpu, name in zip(found, names, strict=True)] == [True] * len(names)
    assert [gpu.torch_name for gpu in found] == [f"cuda:{i}" for i in range(len(names))]


@pytest.mark.parametrize(
    "failure",
    [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 10), OSError("no")],
)
def test_a_machine_without_a_driver_has_its_cpu(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(gpus, "_amd_gpus", lambda folder: [])

    (cpu,) = find_devices()

    assert cpu.torch_name == "cpu"
    assert not cpu.is_gpu
    assert 0 < cpu.free_bytes <= cpu.total_bytes


def test_amd_cards_are_read_from_the_drivers_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "card1" / "device"
    device.mkdir(parents=True)
    (device / "mem_info_vram_total").write_text("25753026560\n")
    (device / "mem_info_vram_used").write_text("1000\n")
    (device / "product_name").write_text("Radeon RX 7900 XTX\n")
    (tmp_path / "card1-DP-1").mkdir()

    (found,) = gpus._amd_gpus(tmp_path)

    hip, cuda = "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
    monkeypatch.delenv(cuda, raising=False)
    monkeypatch.setenv(hip, "1")
    assert gpus._amd_gpus(tmp_path) == []
    monkeypatch.setenv(hip, "0")
    assert gpus._amd_gpus(tmp_path) == [found]
    assert found == DeviceInfo(
        *("Radeon RX 7900 XTX", 25_753_026_560, 25_753_025_560, "amdgpu", "cuda:0"),
        bandwidth=960 * 10**9,
    )


def test_the_control_groups_limit_is_obeyed(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert hardware._cgroup_bytes(tmp_path) == (1000, 300)

    (tmp_path / "memory.max").write_text("max\n")
    assert hardware._cgroup_bytes(tmp_path) == (None, 0)


def test_auto_takes_the_card_with_the_most_free_memory() -> None:
    gpus = parse_nvidia_smi(_TABLE, None)

    assert choose_device(Settings(), [*gpus, _CPU]) == gpus[0]
    assert choose_device(Settings(), [_CPU]) == _CPU


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("cpu", "cpu"), ("cuda", "cuda:0"), ("CUDA:1", "cuda:1"), ("cpu ", "cpu")],
)
def test_a_device_can_be_asked_for(wanted: str, chosen: str) -> None:
    devices = [*parse_nvidia_smi(_TABLE, None), _CPU]

    assert choose_device(Settings(device=wanted), devices).torch_name == chosen


def test_a_device_that_is_not_there_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="'cuda:7'.*cpu"):
        choose_device(Settings(device="cuda:7"), [_CPU])


@pytest.mark.parametrize(
    ("size_bytes", "card", "gb_per_s"),
    [
        (24 * 2**30, "RTX 4090", 1008),
        (24 * 10**9, "RTX 4090", 1008),
        (16 * 10**9, "RTX 4080 SUPER", 736),
        (141 * 10**9, "H200", 4800),
        (20 * 2**30, "", 0),
        (1, "", 0),
        (10**15, "", 0),
    ],
)
def test_the_speed_of_a_planned_card_is_that_of_a_card_with_a_name(
    size_bytes: int, card: str, gb_per_s: int
) -> None:
    planned = planned_card(size_bytes)

    assert (planned.stands_for, planned.bandwidth) == (card, gb_per_s * 10**9)


def test_every_typical_card_has_a_speed() -> None:
    assert all(bandwidth_of(card) for card in bandwidth._TYPICAL.values())


def test_a_planned_card_is_empty() -> None:
    card = planned_card(24 * 2**30)

    assert card.total_bytes == card.free_bytes == 24 * 2**30
    assert card.is_gpu
