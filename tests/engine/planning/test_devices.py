"""What the machine has, from the text that drivers give."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from rqchat.engine.planning import gpu_bandwidth, gpus, main_memory
from rqchat.engine.planning.devices import DeviceInfo, choose_device, find_devices, planned_card
from rqchat.engine.planning.gpu_bandwidth import bandwidth_of
from rqchat.engine.planning.gpus import parse_nvidia_smi
from rqchat.engine.settings import Settings
from rqchat.errors import UsageError
from tests.engine.planning.nvidia_smi import TABLE

_CPU = DeviceInfo("CPU", 8, 4, "main memory", "cpu")


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
    found = parse_nvidia_smi(TABLE, visible)

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
    for number, name in ((10, "Radeon PRO W7900"), (2, "Radeon RX 7600")):
        shutil.copytree(device, tmp_path / f"card{number}" / "device")
        (tmp_path / f"card{number}/device/product_name").write_text(name)
    names = ["Radeon RX 7900 XTX", "Radeon RX 7600", "Radeon PRO W7900"]
    assert [card.name for card in gpus._amd_gpus(tmp_path)] == names
    for number in (2, 10):
        shutil.rmtree(tmp_path / f"card{number}")

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


def test_the_control_groups_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert main_memory._cgroup_bytes(tmp_path) == (1000, 300)
    (tmp_path / "memory.stat").write_text("anon 90\nfile 210\ninactive_file 200\n")
    assert main_memory._cgroup_bytes(tmp_path) == (1000, 100)

    (tmp_path / "memory.max").write_text("max\n")
    assert main_memory._cgroup_bytes(tmp_path) == (None, 0)


def test_auto_takes_the_card_with_the_most_free_memory() -> None:
    gpus = parse_nvidia_smi(TABLE, None)

    assert choose_device(Settings(), [*gpus, _CPU]) == gpus[0]
    assert choose_device(Settings(), [_CPU]) == _CPU


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("cpu", "cpu"), ("cuda", "cuda:0"), ("CUDA:1", "cuda:1"), ("cpu ", "cpu")],
)
def test_a_device_can_be_asked_for(wanted: str, chosen: str) -> None:
    devices = [*parse_nvidia_smi(TABLE, None), _CPU]

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
        (4 * 2**30, "RTX 3050 Laptop", 192),
        (28 * 2**30, "", 0),
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
    assert all(bandwidth_of(card) for card in gpu_bandwidth._TYPICAL.values())


def test_a_planned_card_is_empty() -> None:
    card = planned_card(24 * 2**30)

    assert card.total_bytes == card.free_bytes == 24 * 2**30
    assert card.is_gpu
