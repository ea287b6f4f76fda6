"""`python -m rqchat.bench memory`: the plan's bytes beside measured ones, a process for each case.

With a GPU: Gemma 4 31B's true shapes with random weights, every rung that fits, one picture and a
prompt that fills the context, then the same on cards of 24 and 16 GiB that are pretended. Without
one: the pocket model and a random one of 100 million parameters, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import rqchat
from rqchat.bench.checkpoint import MID_TEXT, write_checkpoint
from rqchat.bench.memory_case import Case
from rqchat.engine.catalog import KNOWN_MODELS
from rqchat.engine.hardware import find_devices

__all__ = ["run_memory"]

_GIB = 2**30
_GPU_CONTEXTS = (8192, 65_536, 262_144)
_CPU_CONTEXTS = (8192, 24_576)
_BF16_DISK_BYTES = 66 * 10**9
_HEADINGS = (
    *("model", "card", "weights", "head", "KV", "prompt", "tensors planned", "measured"),
    *("measured / planned", "whole plan", "process", "load", "host peak"),
)


def run_memory(report: Path, folder: Path | None, contexts: Sequence[int]) -> None:
    """Measures, prints a row as each comes, and appends the table to `report`.

    `folder` takes the random checkpoints (up to 90 GB with a GPU); None is a temporary one.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        cases = _gpu_cases if torch.cuda.is_available() else _cpu_cases
        results = []
        for name, case in cases(Path(scratch), contexts):
            row = _row(name, case, _measured(case))
            results.append(row)
            sys.stdout.write(" | ".join(row) + "\n")
            sys.stdout.flush()
    _append(report, results)


def _gpu_cases(scratch: Path, contexts: Sequence[int]) -> Iterator[tuple[str, Case]]:
    config = KNOWN_MODELS[0].config
    pocket = Path(rqchat.__file__).parent / "pocket"
    folder = write_checkpoint(scratch / "packed", config, pocket, packed=True)
    for weights in ("int4", "int2"):
        for cap in (0, 24 * _GIB, 16 * _GIB):
            for context in contexts or _GPU_CONTEXTS:
                yield "31B random", Case(str(folder), weights, context, cap_bytes=cap)
    shutil.rmtree(folder)
    if shutil.disk_usage(scratch).free < _BF16_DISK_BYTES:
        sys.stdout.write(
            "no room on the disk for bf16 weights: bf16, int8, int8-bnb and nf4 left out\n"
        )
        return
    folder = write_checkpoint(scratch / "bf16", config, pocket, packed=False)
    for weights in ("bf16", "int8", "int8-bnb", "nf4"):
        for context in contexts or _GPU_CONTEXTS:
            yield "31B random", Case(str(folder), weights, context)


def _cpu_cases(scratch: Path, contexts: Sequence[int]) -> Iterator[tuple[str, Case]]:
    for context in contexts or _CPU_CONTEXTS:
        yield "pocket", Case("pocket", None, context, device="cpu")
    pocket = Path(rqchat.__file__).parent / "pocket"
    own = json.loads((pocket / "config.json").read_text(encoding="utf-8"))
    text = {"vocab_size": own["text_config"]["vocab_size"], "attention_k_eq_v": True}
    config = {
        "model_type": "gemma4",
        "vision_config": own["vision_config"],
        "text_config": {"model_type": "gemma4_text", **text, **MID_TEXT},
    }
    folder = write_checkpoint(scratch / "bf16", config, pocket, packed=False)
    for weights in (None, "bf16", "int8", "int4", "int2", "int8-bnb", "nf4"):
        case = Case(str(folder), weights, (contexts or _CPU_CONTEXTS)[0], device="cpu")
        yield "random, 100 M", case


def _measured(case: Case) -> dict[str, Any]:
    """What a child process says; its error where it failed."""
    command = [sys.executable, "-m", "rqchat.bench.memory_case", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"error": last}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _row(name: str, case: Case, found: dict[str, Any]) -> list[str]:
    card = f"{case.cap_bytes / _GIB:.0f} GiB" if case.cap_bytes else find_devices()[0].name
    if "error" in found:
        asked = f"{case.context_tokens:,}"
        return [name, card, case.weights or "-", "-", "-", asked, "-", found["error"][:160]]
    planned, measured = found["planned_bytes"], found["measured_bytes"]
    return [
        *(name, card, found["weights"], str(found["head_bits"]), str(found["kv_bits"])),
        *(f"{found['read_tokens']:,}", _mb(planned), _mb(measured), f"{measured / planned:.1%}"),
        *(_mb(found["planned_total_bytes"]), _mb(found["process_bytes"])),
        *(f"{found['load_s']:.1f} s", _mb(found["host_bytes"])),
    ]


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


def _append(report: Path, rows: Sequence[Sequence[str]]) -> None:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    devices = ", ".join(device.name for device in find_devices())
    lines = [
        f"\n## {date.today().isoformat()}: {devices}\n",
        f"`python -m rqchat.bench memory`, Python {platform.python_version()}, {versions}.",
        "" if torch.cuda.is_available() else "No GPU: nothing here was measured on one.",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        f"|{'---|' * len(_HEADINGS)}",
        *(f"| {' | '.join([*row, *[''] * (len(_HEADINGS) - len(row))])} |" for row in rows),
    ]
    report.parent.mkdir(parents=True, exist_ok=True)
    with report.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def main() -> None:
    """Reads what `rqchat.bench` has let through."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--contexts", type=int, nargs="*", default=())
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--report", type=Path, default=Path("docs/benchmarks/memory.md"))
    arguments, _ = parser.parse_known_args()
    run_memory(arguments.report, arguments.folder, arguments.contexts)


if __name__ == "__main__":
    main()
