"""`rqchat doctor`: what rqchat finds on this machine, what is wrong, and what mends it.

Nothing is imported that it reports on: versions come from the installed metadata, and how torch
was built from its version file, so that a broken torch is reported and not run into.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rqchat.cli import options, places

if TYPE_CHECKING:
    from rqchat.engine.hardware import DeviceInfo
    from rqchat.ui.tables import Finding

__all__ = ["doctor"]

_NEEDED = {"torch": (2, 11), "transformers": (5, 17)}
_FOR_GPUS = {"triton": "the GPU kernels", "bitsandbytes": "int8 and nf4 weights"}
_REINSTALL = "run ./install.sh again"
_DOWNLOAD_BYTES = 25 * 10**9  # Gemma 4 31B at 4 bits with room for partial files


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", metavar=options.NO_VALUE, help="One JSON object.")
    ] = False,
) -> None:
    """Show what was found on this machine, what is wrong, and what mends it.

    Ends with 0 when rqchat can work here, with 1 when something is broken.
    """
    from dataclasses import asdict

    from rqchat.engine.hardware import find_devices
    from rqchat.ui.console import Screen
    from rqchat.ui.tables import findings_table

    devices = find_devices()
    has_gpu = any(device.is_gpu for device in devices)
    findings = [
        _python(),
        *_packages(has_gpu),
        *_hardware(devices),
        _pocket_model(),
        *_model_cache(has_gpu),
    ]
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
    from rqchat import __version__
    from rqchat.ui.tables import Finding

    return Finding("rqchat", "ok", f"{__version__} on Python {platform.python_version()}")


def _packages(has_gpu: bool) -> list[Finding]:
    from rqchat.ui.tables import Finding

    findings = []
    for name, least in _NEEDED.items():
        version = _version(name)
        wanted = ".".join(str(part) for part in least)
        if version is None:
            findings.append(Finding(name, "broken", "is not installed", _REINSTALL))
        elif _numbers(version) < least:
            detail = f"{version}, and rqchat needs {wanted} or newer"
            findings.append(Finding(name, "broken", detail, _REINSTALL))
        else:
            findings.append(_torch(version, has_gpu) if name == "torch" else _ok(name, version))
    for name, use in _FOR_GPUS.items():
        version = _version(name)
        if version is not None:
            findings.append(_ok(name, version))
        elif has_gpu:
            detail = f"is not installed; {use} need it"
            findings.append(Finding(name, "note", detail, f"pip install {name}"))
    return findings


def _torch(version: str, has_gpu: bool) -> Finding:
    from rqchat.ui.tables import Finding

    build = _torch_build()
    if has_gpu and build == "CPU":
        detail = f"{version}, built for the CPU: the GPU cannot be used"
        return Finding("torch", "broken", detail, "rm -r .venv && ./install.sh")
    return Finding("torch", "ok", f"{version}, built for {build}")


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


def _hardware(devices: Sequence[DeviceInfo]) -> list[Finding]:
    from rqchat.ui.tables import Finding
    from rqchat.ui.text import format_bytes

    findings = []
    for device in devices:
        detail = (
            f"{device.name}: {format_bytes(device.free_bytes)} free of "
            f"{format_bytes(device.total_bytes)} ({device.source})"
        )
        findings.append(Finding("GPU" if device.is_gpu else "CPU", "ok", detail))
    driver = _nvidia_driver()
    if driver:
        findings.append(_ok("driver", f"NVIDIA {driver}"))
    elif not any(device.is_gpu for device in devices):
        findings.append(_no_gpu())
    return findings


def _no_gpu() -> Finding:
    from rqchat.ui.tables import Finding

    if Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia").exists():
        remedy = "run nvidia-smi to see why; reinstall the NVIDIA driver if it fails"
        return Finding("GPU", "broken", "an NVIDIA driver is there, but shows no GPU", remedy)
    return Finding("GPU", "note", "none found: rqchat uses the pocket model on the CPU")


def _nvidia_driver() -> str | None:
    command = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip().partition("\n")[0] or None


def _pocket_model() -> Finding:
    from rqchat.engine.models import resolve_model
    from rqchat.engine.settings import Settings
    from rqchat.errors import ModelError
    from rqchat.ui.tables import Finding

    try:
        source = resolve_model(Settings(model="pocket"), has_gpu=False)
    except ModelError as error:
        return Finding("pocket model", "broken", str(error), _REINSTALL)
    millions = source.shape.parameters / 1e6
    return Finding("pocket model", "ok", f"{millions:.1f} million parameters")


def _model_cache(has_gpu: bool) -> list[Finding]:
    from rqchat.ui.tables import Finding
    from rqchat.ui.text import format_bytes

    folder = places.model_cache_folder()
    names = sorted(path.name for path in folder.glob("models--*gemma-4*"))
    models = [name.removeprefix("models--").replace("--", "/") for name in names]
    held = ", ".join(models) or "no Gemma 4 downloaded yet"
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(place).free
    disk = f"{format_bytes(free_bytes)} free"
    if has_gpu and not models and free_bytes < _DOWNLOAD_BYTES:
        detail = f"{disk}; Gemma 4 31B needs about {format_bytes(_DOWNLOAD_BYTES)}"
        finding = Finding("disk", "note", detail, "export HF_HOME=FOLDER_ON_A_LARGER_DISK")
    else:
        finding = _ok("disk", disk)
    return [_ok("model cache", f"{folder}: {held}"), finding]


def _ok(name: str, detail: str) -> Finding:
    from rqchat.ui.tables import Finding

    return Finding(name, "ok", detail)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 13) of `2.13.0+cpu`."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:2])
