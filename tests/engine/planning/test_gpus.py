"""NVIDIA's cards, whole and cut into slices, as their library and their program tell of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rqchat.engine.planning import gpus
from rqchat.engine.planning.devices import DeviceInfo
from rqchat.engine.planning.gpus import parse_nvidia_smi
from tests.engine.planning.nvidia_smi import PROGRAMS, TABLE


def test_nvidia_cards_are_read_in_mib() -> None:
    first, second = parse_nvidia_smi(TABLE, None, PROGRAMS)

    assert first == DeviceInfo(
        "NVIDIA GeForce RTX 3090",
        24_576 * 2**20,
        24_000 * 2**20,
        "nvidia-smi",
        "cuda:0",
        (8, 6),
        ("firefox (300 MiB)",),
        936 * 10**9,
    )
    assert (second.torch_name, second.free_bytes) == ("cuda:1", 1000 * 2**20)
    assert second.users == ("trainer (80000 MiB)",)


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
        ("game (1907 MiB)", "desktop (0 MiB)"),
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
    monkeypatch.setattr(gpus, "_run", lambda *command: TABLE if gpus._CARDS in command else "")

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
