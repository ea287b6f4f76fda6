"""What `rqchat doctor` says of GPUs, their driver, and the torch that should use them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rqchat.engine.gpus import DeviceInfo
    from rqchat.ui.tables import Finding

__all__ = ["hardware", "torch_build", "torch_fits"]

# The oldest driver of each CUDA generation (NVIDIA, CUDA compatibility, table of minor versions)
_LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
_KERNELS = (7, 5)  # what Triton compiles for
_BFLOAT16 = (8, 0)
_REBUILD = "rm -r .venv && ./install.sh"


def torch_build() -> str:
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


def torch_fits(
    version: str, build: str, devices: Sequence[DeviceInfo], driver: str | None
) -> Finding:
    """Whether torch, built for `build`, can use the GPUs that were found."""
    from rqchat.ui.tables import Finding

    sources = {device.source for device in devices if device.is_gpu}
    kind = build.split()[0]
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


def hardware(devices: Sequence[DeviceInfo], driver: str | None) -> Iterator[Finding]:
    """One finding per device, one for the driver or the lack of a GPU, one for several."""
    from rqchat.ui.tables import Finding

    gpus = [device for device in devices if device.is_gpu]
    for device in devices:
        yield _device(device)
    if driver:
        yield Finding("driver", "ok", f"NVIDIA {driver}")
    elif not gpus:
        yield no_gpu()
    if len(gpus) > 1:
        most = max(gpus, key=lambda gpu: gpu.free_bytes)
        detail = f"{len(gpus)} GPUs; rqchat uses one, {most.torch_name}, which has most room"
        yield Finding("GPUs", "note", detail, "--device cuda:N takes another one")


def no_gpu() -> Finding:
    """Nothing found, or a driver that hides what it has."""
    from rqchat.ui.tables import Finding

    if Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia").exists():
        remedy = "run nvidia-smi to see why; reinstall the NVIDIA driver if it fails"
        return Finding("GPU", "broken", "an NVIDIA driver is there, but shows no GPU", remedy)
    return Finding("GPU", "note", "none found: rqchat uses the pocket model on the CPU")


def _device(device: DeviceInfo) -> Finding:
    from rqchat.ui.tables import Finding
    from rqchat.ui.text import format_bytes

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
    if capability and capability < _BFLOAT16:
        return Finding(name, "note", detail, "it has no bfloat16 units: expect it to be slow")
    return Finding(name, "ok", detail)
