"""`rqchat doctor`: what rqchat finds on this machine, what is wrong, and how to repair it.

Nothing is imported that it reports on: versions come from the installed metadata, and how torch
was built from its version file, so that a broken torch is reported and not run into.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rqchat import __version__
from rqchat.cli import app_folders, options
from rqchat.ui.finding import Finding

if TYPE_CHECKING:
    from rqchat.engine.planning.gpu_troubles import GpuTrouble
    from rqchat.engine.planning.gpus import DeviceInfo

__all__ = ["doctor"]

_NEEDED = ("torch", "transformers")
_FOR_GPUS = {
    "triton": "the GPU kernels",
    "bitsandbytes": "int8-bnb and nf4 weights",
    "nvidia-ml-py": "seeing who else uses the GPU",
}
# The oldest driver of each CUDA generation (NVIDIA, CUDA compatibility, table of minor versions)
_LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
_KERNELS = (7, 5)  # what Triton compiles for
_BFLOAT16 = (8, 0)
_REINSTALL = "run ./install.sh again"
_REBUILD = "rm -r .venv && ./install.sh"
_ANGLE_TABLES_BYTES = 2**14  # rotary tables lie beside the weights and are no weights
_DOWNLOAD_BYTES = 25 * 10**9  # Gemma 4 31B at 4 bits with room for partial files


@options.accepts(options.MODEL)
def doctor(
    load: Annotated[
        bool,
        typer.Option("--load", help="Load the model; planned beside measured."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    *,
    given: options.GivenOptions,
) -> None:
    """Show what was found on this machine, what is wrong, and what mends it.

    Ends with 0 when rqchat can work here, with 1 when something is broken.
    """
    from rqchat.engine.planning import gpus
    from rqchat.engine.planning.devices import find_devices
    from rqchat.ui.console import Screen
    from rqchat.ui.tables import findings_table

    devices, driver = find_devices(), gpus.nvidia_driver()
    troubles = gpus.gpu_troubles()
    has_gpu = any(device.is_gpu for device in devices)
    findings = [
        _python(),
        *_packages(devices, driver),
        *_hardware(devices, driver, troubles),
        _pocket_model(),
        *_model_cache(has_gpu),
    ]
    if load:
        findings += _loaded(given)
    usable = all(finding.state != "broken" for finding in findings)
    screen = Screen()
    if as_json:
        record = {"usable": usable, "findings": [asdict(finding) for finding in findings]}
        screen.answer(json.dumps(record) + "\n")
    else:
        screen.table(findings_table(findings))
    if not usable:
        raise typer.Exit(1)


def _python() -> Finding:
    return Finding("rqchat", "ok", f"{__version__} on Python {platform.python_version()}")


def _packages(devices: Sequence[DeviceInfo], driver: str | None) -> list[Finding]:
    findings = []
    for name in _NEEDED:
        version, least = _version(name), _least(name)
        if version is None:
            findings.append(Finding(name, "broken", "is not installed", _REINSTALL))
        elif _numbers(version) < _numbers(least):
            detail = f"{version}, and rqchat needs {least} or newer"
            findings.append(Finding(name, "broken", detail, _REINSTALL))
        elif name == "torch":
            findings.append(_torch_fits(version, _torch_build(), devices, driver))
        else:
            findings.append(_ok(name, version))
    for name, use in _FOR_GPUS.items():
        version = _version(name)
        if version is not None:
            findings.append(_ok(name, version))
        elif any(device.is_gpu for device in devices):
            detail = f"is not installed; {use} needs it"
            findings.append(Finding(name, "note", detail, f"pip install {name}"))
    return findings


def _version(name: str) -> str | None:
    from importlib import metadata  # which loads the parser of mails, for every start

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _least(name: str) -> str:
    """The oldest version of a package that rqchat's own metadata admits; empty where unknown."""
    from importlib import metadata

    try:
        requirements = metadata.requires("rqchat") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return ""
    found = (re.match(rf"{name}\b[^;]*>=\s*([\d.]+)", wanted) for wanted in requirements)
    return next((match[1] for match in found if match), "")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 13) of `2.13.0+cpu`."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:2])


def _torch_build() -> str:
    """`CUDA 12.8`, `ROCm 6.4` or `CPU`, as torch/version.py says."""
    spec = util.find_spec("torch")
    text = ""
    if spec and spec.origin:
        version_file = Path(spec.origin).with_name("version.py")
        text = version_file.read_text(encoding="utf-8") if version_file.is_file() else ""
    for name, label in (("cuda", "CUDA"), ("hip", "ROCm")):
        found = re.search(rf"^{name}\b.*=\s*'([^']+)'", text, re.MULTILINE)
        if found:
            return f"{label} {found.group(1)}"
    return "CPU"


def _torch_fits(
    version: str, build: str, devices: Sequence[DeviceInfo], driver: str | None
) -> Finding:
    """Whether torch, built for `build`, can use the GPUs that were found."""
    sources = {device.source for device in devices if device.is_gpu}
    kind = build.split()[0]
    # On a Mac (`sysctl`) this very build is the one that uses the GPU.
    if kind == "CPU" and sources - {"sysctl"}:
        detail = f"{version}, built for the CPU: the GPU cannot be used"
        return Finding("torch", "broken", detail, _REBUILD)
    if (kind == "ROCm" and sources & {"NVML", "nvidia-smi"}) or (
        kind == "CUDA" and "amdgpu" in sources
    ):
        detail = f"{version}, built for {build}: the GPU is of the other maker"
        return Finding("torch", "broken", detail, _REBUILD)
    generation = re.match(r"CUDA (\d+)", build)
    least = _LEAST_DRIVER.get(int(generation[1]), 0) if generation else 0
    if driver and int(re.match(r"\d*", driver)[0] or 0) < least:  # type: ignore[index]
        detail = f"{version}, built for {build}, needs NVIDIA driver {least}; there is {driver}"
        remedy = f"update the driver to {least} or newer; or, for this one, {_REBUILD}"
        return Finding("torch", "broken", detail, remedy)
    return Finding("torch", "ok", f"{version}, built for {build}")


def _hardware(
    devices: Sequence[DeviceInfo], driver: str | None, troubles: Sequence[GpuTrouble]
) -> Iterator[Finding]:
    """One finding per device, also of those that cannot be used, one for the driver or the lack of
    a GPU, one for several."""
    gpus = [device for device in devices if device.is_gpu]
    for device in devices:
        yield _device(device)
    for trouble in troubles:
        # With another GPU rqchat works
        yield Finding("GPU", "note" if gpus else "broken", trouble.detail, trouble.remedy)
    if driver:
        yield Finding("driver", "ok", f"NVIDIA {driver}")
    elif not gpus and not troubles:
        yield _no_gpu()
    if len(gpus) > 1:
        most = max(gpus, key=lambda gpu: gpu.free_bytes)
        detail = f"{len(gpus)} GPUs; rqchat uses one, {most.torch_name}, which has most room"
        yield Finding("GPUs", "note", detail, "--device cuda:N takes another one")


def _device(device: DeviceInfo) -> Finding:
    from rqchat.engine.sizes import format_bytes

    said = [
        f"{device.name}: {format_bytes(device.free_bytes)} free of"
        f" {format_bytes(device.total_bytes)} ({device.source})"
    ]
    capability = device.capability
    if capability:
        said.append(f"compute capability {capability[0]}.{capability[1]}")
    if device.bandwidth:
        said.append(f"{device.bandwidth / 1e9:,.0f} GB/s")
    if device.users:
        said.append(f"used by {', '.join(device.users)}")
    name, detail = "GPU" if device.is_gpu else "CPU", ", ".join(said)
    if capability and capability < _KERNELS:
        return Finding(name, "note", detail, "too old for the GPU kernels; --device cpu works")
    if device.lacks:
        no_units = bool(capability and capability < _BFLOAT16)
        return Finding(name, "note", detail, device.lacks + "; no bfloat16 units" * no_units)
    return Finding(name, "ok", detail)


def _no_gpu() -> Finding:
    """Nothing found, or a driver that hides what it has."""
    if Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia").exists():
        remedy = "run nvidia-smi to see why; reinstall the NVIDIA driver if it fails"
        return Finding("GPU", "broken", "an NVIDIA driver is there, but shows no GPU", remedy)
    return Finding("GPU", "note", "none found: rqchat uses the pocket model on the CPU")


def _pocket_model() -> Finding:
    from rqchat.engine.model_files.resolve import resolve_model
    from rqchat.engine.planning.devices import cpu_device
    from rqchat.engine.settings import Settings
    from rqchat.errors import ModelError

    try:
        source = resolve_model(Settings(model="pocket"), cpu_device())
    except ModelError as error:
        return Finding("pocket model", "broken", str(error), _REINSTALL)
    millions = source.shape.parameters / 1e6
    return Finding("pocket model", "ok", f"{millions:.1f} million parameters")


def _model_cache(has_gpu: bool) -> list[Finding]:
    from rqchat.engine.model_files.installed import installed_models
    from rqchat.engine.sizes import format_bytes

    folder = app_folders.model_cache_folder()
    models = [model.name for model in installed_models()]
    listed = ", ".join(models) or "no Gemma 4 downloaded yet"
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(place).free
    disk = f"{format_bytes(free_bytes)} free"
    if has_gpu and not models and free_bytes < _DOWNLOAD_BYTES:
        detail = f"{disk}; Gemma 4 31B needs about {format_bytes(_DOWNLOAD_BYTES)}"
        finding = Finding("disk", "note", detail, "export HF_HOME=FOLDER_ON_A_LARGER_DISK")
    else:
        finding = _ok("disk", disk)
    return [_ok("model cache", f"{folder}: {listed}"), finding]


def _loaded(given: options.GivenOptions) -> list[Finding]:
    """Loads what would be loaded, and compares it with the plan."""
    from rqchat.engine.measure.plan_check import measure_load
    from rqchat.engine.sizes import format_bytes
    from rqchat.errors import RqchatError
    from rqchat.ui.console import Screen
    from rqchat.ui.stream import AnswerView
    from rqchat.ui.text import format_count, format_seconds

    view = AnswerView(Screen())
    try:
        report = measure_load(given.settings(), view.show)
    except RqchatError as error:
        return [Finding("load", "broken", str(error))]
    finally:
        view.close()
    chosen = report.plan.chosen
    detail = (
        f"{report.model} as {chosen.weights} with {chosen.kv_bits}-bit KV and"
        f" {format_count(chosen.context_tokens)} tokens, in {format_seconds(report.load_s)}"
    )
    findings = [_ok("load", detail)]
    for part in report.parts:
        planned, measured = part.planned_bytes, part.measured_bytes
        detail = f"{format_bytes(planned)} planned, {format_bytes(measured)} measured"
        over = measured - planned > _ANGLE_TABLES_BYTES
        state: Literal["ok", "note"] = "note" if over else "ok"
        findings.append(Finding(part.part, state, f"{detail} ({measured / planned:.1%})"))
    return findings


def _ok(name: str, detail: str) -> Finding:
    return Finding(name, "ok", detail)
