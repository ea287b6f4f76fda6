"""What the machine has, from the text that drivers give."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rqchat.engine import hardware
from rqchat.engine.hardware import (
    DeviceInfo,
    choose_device,
    find_devices,
    parse_nvidia_smi,
    planned_card,
)
from rqchat.engine.settings import Settings
from rqchat.errors import UsageError

_TABLE = """0, GPU-aaaa1111, NVIDIA GeForce RTX 3090, 24576, 24000
1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559, 1000
2, GPU-cccc3333, NVIDIA Something, [N/A], [N/A]
"""
_CPU = DeviceInfo("CPU", 8, 4, "main memory", "cpu")


def test_nvidia_cards_are_read_in_mib() -> None:
    first, second = parse_nvidia_smi(_TABLE, None)

    assert first == DeviceInfo(
        "NVIDIA GeForce RTX 3090", 24_576 * 2**20, 24_000 * 2**20, "nvidia-smi", "cuda:0"
    )
    assert (second.torch_name, second.free_bytes) == ("cuda:1", 1000 * 2**20)


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
    monkeypatch.setattr(hardware, "_amd_gpus", lambda folder: [])

    (cpu,) = find_devices()

    assert cpu.torch_name == "cpu"
    assert not cpu.is_gpu
    assert 0 < cpu.free_bytes <= cpu.total_bytes


def test_amd_cards_are_read_from_the_drivers_files(tmp_path: Path) -> None:
    device = tmp_path / "card1" / "device"
    device.mkdir(parents=True)
    (device / "mem_info_vram_total").write_text("25753026560\n")
    (device / "mem_info_vram_used").write_text("1000\n")
    (device / "product_name").write_text("Radeon RX 7900 XTX\n")
    (tmp_path / "card1-DP-1").mkdir()

    (found,) = hardware._amd_gpus(tmp_path)

    assert found == DeviceInfo(
        "Radeon RX 7900 XTX", 25_753_026_560, 25_753_025_560, "amdgpu", "cuda:0"
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
    ("wanted", "chosen"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("CUDA:1", "cuda:1")]
)
def test_a_device_can_be_asked_for(wanted: str, chosen: str) -> None:
    devices = [*parse_nvidia_smi(_TABLE, None), _CPU]

    assert choose_device(Settings(device=wanted), devices).torch_name == chosen


def test_a_device_that_is_not_there_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="'cuda:7'.*cpu"):
        choose_device(Settings(device="cuda:7"), [_CPU])


def test_a_planned_card_is_empty() -> None:
    card = planned_card(24 * 2**30)

    assert card.total_bytes == card.free_bytes == 24 * 2**30
    assert card.is_gpu
