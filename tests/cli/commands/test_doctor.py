"""What `rqchat doctor` finds on a machine."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from rqchat.cli.commands import doctor_command
from rqchat.engine.planning import devices, gpus
from rqchat.engine.planning.devices import DeviceInfo
from tests.cli.conftest import Run
from tests.cli.screened import program

CPU = DeviceInfo("a processor", 16 * 2**30, 8 * 2**30, "main memory", "cpu")
GPU = DeviceInfo("a card", 24 * 2**30, 23 * 2**30, "nvidia-smi", "cuda:0")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A healthy machine without a GPU; tests break it."""
    monkeypatch.setattr(devices, "find_devices", lambda: (CPU,))
    monkeypatch.setattr(gpus, "nvidia_driver", lambda: None)
    monkeypatch.setattr(gpus, "gpu_troubles", lambda: ())
    monkeypatch.setattr(doctor_command, "_no_gpu", lambda: doctor_command._ok("GPU", "none"))
    requirements = ["torch<2.14,>=2.11", "transformers<5.24,>=5.17", 'triton; extra == "gpu"']
    monkeypatch.setattr(metadata, "requires", {"rqchat": requirements}.get)
    versions = {"torch": "2.13.0+cpu", "transformers": "5.23.0"}
    monkeypatch.setattr(doctor_command, "_version", versions.get)
    monkeypatch.setattr(doctor_command, "_torch_build", lambda: "CPU")
    monkeypatch.setattr(
        doctor_command, "_pocket_model", lambda: doctor_command._ok("pocket model", "there")
    )
    return monkeypatch


def findings(run: Run) -> tuple[int, dict[str, tuple[str, str]]]:
    return findings_of(run)


def findings_of(run: Run, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    result = run("doctor", "--json", *arguments)
    record = json.loads(result.out)
    assert record["usable"] == (result.code == 0)
    return result.code, {f["name"]: (f["state"], f["remedy"]) for f in record["findings"]}


def test_doctor_on_a_healthy_machine(run: Run, machine: pytest.MonkeyPatch) -> None:
    result = run("doctor")
    assert result.code == 0
    assert "torch         2.13.0+cpu, built for CPU" in result.out
    assert "a processor: 8.0 GiB free of 16.0 GiB (main memory)" in result.out
    assert findings(run)[1]["torch"] == ("ok", "")


def test_doctor_without_torch(run: Run, machine: pytest.MonkeyPatch) -> None:
    machine.setattr(doctor_command, "_version", lambda name: None)
    code, found = findings(run)
    assert code == 1
    assert found["torch"] == ("broken", "run ./install.sh again")
    assert "bitsandbytes" not in found


def test_doctor_with_an_old_transformers(run: Run, machine: pytest.MonkeyPatch) -> None:
    machine.setattr(
        doctor_command, "_version", lambda name: "4.57.1" if name == "transformers" else "2.13"
    )
    assert findings(run)[1]["transformers"][0] == "broken"


def test_doctor_finds_a_cpu_torch_beside_a_gpu(run: Run, machine: pytest.MonkeyPatch) -> None:
    machine.setattr(devices, "find_devices", lambda: (GPU, CPU))
    machine.setattr(gpus, "nvidia_driver", lambda: "570.1")
    code, found = findings(run)
    assert code == 1
    assert found["torch"] == ("broken", "rm -r .venv && ./install.sh")
    assert found["bitsandbytes"] == ("note", "pip install bitsandbytes")
    assert found["driver"] == ("ok", "")


@pytest.mark.parametrize(
    ("build", "device", "driver", "said", "remedy"),
    [
        (
            "CUDA 13.0",
            GPU,
            "570.86",
            "needs NVIDIA driver 580; there is 570.86",
            "update the driver",
        ),
        ("ROCm 7.2", GPU, "580.1", "the GPU is of the other maker", "rm -r .venv"),
        (
            "CUDA 12.8",
            replace(GPU, source="amdgpu"),
            None,
            "the GPU is of the other maker",
            "rm -r",
        ),
    ],
)
def test_doctor_finds_a_torch_that_does_not_match(
    run: Run,
    machine: pytest.MonkeyPatch,
    build: str,
    device: DeviceInfo,
    driver: str | None,
    said: str,
    remedy: str,
) -> None:
    machine.setattr(devices, "find_devices", lambda: (device, CPU))
    machine.setattr(gpus, "nvidia_driver", lambda: driver)
    machine.setattr(doctor_command, "_torch_build", lambda: build)
    result = run("doctor", "--json")
    (found,) = (f for f in json.loads(result.out)["findings"] if f["name"] == "torch")
    assert result.code == 1
    assert found["state"] == "broken"
    assert said in found["detail"]
    assert found["remedy"].startswith(remedy)


def test_doctor_takes_a_torch_that_matches(run: Run, machine: pytest.MonkeyPatch) -> None:
    machine.setattr(devices, "find_devices", lambda: (GPU, CPU))
    machine.setattr(gpus, "nvidia_driver", lambda: "570.86")
    machine.setattr(doctor_command, "_torch_build", lambda: "CUDA 12.8")
    assert findings(run)[1]["torch"] == ("ok", "")


def test_doctor_says_what_a_gpu_can_do_and_who_uses_it(
    run: Run, machine: pytest.MonkeyPatch
) -> None:
    old = replace(
        GPU,
        torch_name="cuda:1",
        capability=(6, 1),
        users=("game (900 MiB)",),
        bandwidth=484 * 10**9,
    )
    machine.setattr(devices, "find_devices", lambda: (GPU, old, CPU))
    machine.setattr(gpus, "nvidia_driver", lambda: "570.86")
    machine.setattr(doctor_command, "_torch_build", lambda: "CUDA 12.8")
    shown = run("doctor").out
    assert "compute capability 6.1, 484 GB/s, used by game (900 MiB)" in " ".join(shown.split())
    assert "too old for the GPU kernels" in shown
    assert "2 GPUs; rqchat uses one, cuda:0" in shown


@pytest.mark.parametrize("card", [{"capability": (7, 5)}, {"capability": None, "source": "amdgpu"}])
def test_doctor_says_which_cards_run_without_attention_kernels(
    run: Run, machine: pytest.MonkeyPatch, card: dict[str, object]
) -> None:
    small: DeviceInfo = replace(GPU, **card)  # type: ignore[arg-type]
    machine.setattr(devices, "find_devices", lambda: (small, CPU))
    machine.setattr(doctor_command, "_torch_build", lambda: "CUDA 12.8")
    shown = " ".join(run("doctor").out.split())
    assert "it has 64 KiB of shared memory" in shown
    assert ("no bfloat16 units" in shown) is (small.source != "amdgpu")
    machine.setattr(devices, "find_devices", lambda: (GPU, CPU))
    assert "shared memory" not in run("doctor").out


ROW = "0, GPU-1, NVIDIA {}, {}, {}, 9.0"


@pytest.mark.parametrize(
    ("said", "ends_with", "detail", "remedy"),
    [
        (ROW.format("A100", *["[Insufficient Permissions]"] * 2), 0, "A100 does not", "MIG"),
        (ROW.format("RTX 3090", "[N/A]", "[N/A]"), 0, "3090 does not tell", "run nvidia-smi"),
        (ROW.format("RTX 3090", "24576", "[Unknown Error]"), 0, "3090 does not tell", "container"),
        (
            ROW.format("RTX 3090", "0", "0"),
            0,
            "3090 does not tell its memory (0)",
            "run nvidia-smi",
        ),
        ("Failed to initialize NVML: Driver/library version mismatch", 18, "mismatch", "restart"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            9,
            "couldn't communicate",
            "sudo modprobe nvidia",
        ),
        ("Failed to initialize NVML: Insufficient Permissions", 4, "Permissions", "--gpus"),
        ("Failed to initialize NVML: Unknown Error", 255, "Unknown Error", "container anew"),
        ("No devices were found", 6, "No devices", "--gpus all"),
        ("Unable to determine the device handle for GPU0: GPU is lost.", 15, "is lost", "restart"),
        ("", 139, "without a word", "run nvidia-smi"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_named_with_what_mends_it(
    run: Run,
    driver: Callable[[str, int], None],
    said: str,
    ends_with: int,
    detail: str,
    remedy: str,
) -> None:
    driver(said, ends_with)
    result = run("doctor", "--json")
    found = [f for f in json.loads(result.out)["findings"] if f["name"] == "GPU"]
    assert (result.code, [f["state"] for f in found]) == (1, ["broken"])
    assert detail in found[0]["detail"] and remedy in found[0]["remedy"]
    planned = run("plan", "--model", "pocket")
    assert planned.code == 0 and detail in planned.err and remedy in planned.err


@pytest.mark.parametrize("name", ["GB10", "Orin (nvgpu)", "Thor"])
@pytest.mark.parametrize("memory", ["[N/A]", "[Not Supported]"])
def test_a_chip_without_memory_of_its_own_has_the_main_memory(
    run: Run, driver: Callable[[str, int], None], name: str, memory: str
) -> None:
    driver(f"{ROW.format('RTX 3090', '[N/A]', '[N/A]')}\n{ROW.format(name, memory, memory)}", 0)
    result = run("doctor", "--json")
    found = [f for f in json.loads(result.out)["findings"] if f["name"] == "GPU"]
    assert [f["state"] for f in found] == ["ok", "note"]
    assert f"NVIDIA {name}: " in found[0]["detail"] and "(main memory)" in found[0]["detail"]
    (gpu,) = gpus.find_gpus()
    assert gpu.torch_name == "cuda:1"  # as CUDA counts, which leaves nothing out
    assert gpu.total_bytes == devices.cpu_device().total_bytes


@pytest.fixture
def driver(machine: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, int], None]:
    """`driver(said, code)` makes an `nvidia-smi` that says so and ends with `code`."""
    machine.undo()
    machine.setattr(gpus, "pynvml", None)
    machine.setattr(gpus, "_amd_gpus", lambda folder: [])
    machine.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    machine.setattr(doctor_command, "_packages", lambda *found: [])
    machine.setenv("RQCHAT_CONFIG", "/nowhere/config.toml")

    def make(said: str, code: int) -> None:
        (tmp_path / "said").write_text(said)
        program(tmp_path, "nvidia-smi", f"cat {tmp_path}/said; exit {code}")

    return make


def test_minimum_versions_are_the_packages_own(machine: pytest.MonkeyPatch) -> None:
    assert (doctor_command._least("torch"), doctor_command._least("transformers")) == (
        "2.11",
        "5.17",
    )
    project = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())
    machine.setattr(metadata, "requires", lambda name: project["project"]["dependencies"])
    for name in doctor_command._NEEDED:
        assert doctor_command._numbers(doctor_command._least(name)) >= (2, 11)


def test_doctor_loads_the_model_and_compares(
    run: Run, machine: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    result = run("doctor", "--load", "--model", str(tiny_folder), "--device", "cpu", "--json")
    record = json.loads(result.out)
    found = {f["name"]: f for f in record["findings"]}
    assert "fp32 with 4-bit KV and 2,048 tokens" in found["load"]["detail"]
    for part in ("weights", "KV cache", "peak"):
        assert re.search(r"planned, .* measured \(\d+\.\d%\)", found[part]["detail"])
    assert found["weights"]["state"] == found["KV cache"]["state"] == "ok"


def test_doctor_says_why_a_load_failed(run: Run, machine: pytest.MonkeyPatch) -> None:
    code, found = findings_of(run, "--load", "--model", "./nowhere")
    assert code == 1
    assert found["load"][0] == "broken"


@pytest.mark.parametrize(
    ("lines", "build"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "CUDA 12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", "ROCm 6.4"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "CPU"),
    ],
)
def test_how_torch_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, build: str
) -> None:
    (tmp_path / "version.py").write_text(lines)
    (tmp_path / "__init__.py").touch()

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    assert doctor_command._torch_build() == build


def test_versions_come_from_the_installed_metadata() -> None:
    assert doctor_command._version("typer") == metadata.version("typer")
    assert doctor_command._version("no-such-package-anywhere") is None
    assert doctor_command._numbers("2.13.0+cpu") == (2, 13)
    assert doctor_command._numbers("5.23.0.dev0") == (5, 23)
