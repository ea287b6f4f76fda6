"""What a bench ran on: machine, versions, commit, date and command."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

__all__ = ["machine"]


def machine(device: torch.device) -> dict[str, str | int | bool | None]:
    """A flat record; None where something cannot be found out."""
    gpu = device.type == "cuda"
    command = "python -m rotorquant.bench " + " ".join(sys.argv[1:])
    return {
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "kernels": gpu and _version("triton") is not None,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "driver": _first_line_of(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        ),
        "cuda": torch.version.cuda or torch.version.hip,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "transformers": _version("transformers"),
        "python": platform.python_version(),
        "commit": _first_line_of(
            "git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"
        ),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command.strip(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line_of(*command: str) -> str | None:
    """First line that a program prints, or None without it."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = run.stdout.split("\n")
    return lines[0].strip() or None if run.returncode == 0 else None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
