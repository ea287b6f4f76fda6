"""What a compiled kernel may take of a card, and the table of what kernels took."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Bytes of shared memory that one block may have (CUDA C++ programming guide, compute capabilities).
SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}

# Sums that fill the registers leave none for what is used before and behind their loop alone; so
# do those of the drafts of a step, under Triton 3.6 (8 to 16 bytes).
SPILLS_OUTSIDE_LOOPS = ("chunk_kernel",)
TENSOR_COLUMNS = 512  # of a Blackwell multiprocessor (PTX, tcgen05.alloc)


ROOT = Path(__file__).resolve().parents[2]


def report(results: Iterable[dict[str, Any]]) -> int:
    """Writes a line of JSON for each result as it comes, then table and faults to stderr.

    Returns:
        The exit code: 1 if anything does not fit.
    """
    seen = []
    for result in results:
        seen.append(result)
        sys.stdout.write(json.dumps(result) + "\n")
    found = faults(seen)
    sys.stderr.write("\n".join([table(seen), *found]) + "\n")
    return 1 if found else 0


def run_compiler(module: str, cache: Path) -> list[dict[str, Any]]:
    """What `python -m module few` reports, of all cards."""
    results = run_without_interpreter(module, cache)
    assert {one["card"] for one in results} == set(SHARED_BYTES)
    return results


def run_without_interpreter(module: str, cache: Path) -> list[dict[str, Any]]:
    """Lines of JSON from `python -m module few`, in a process that compiles."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels"))),
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_INTERPRET": "0",
    }
    command = [sys.executable, "-m", module, "few"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def faults(results: list[dict[str, Any]]) -> list[str]:
    """What no kernel may do: too much shared or tensor memory, spills, float64."""
    found = []
    for one in results:
        name = f"{one['kernel']}, {one['case']}, sm_{one['card']}"
        if one["shared_bytes"] > SHARED_BYTES[one["card"]]:
            found.append(f"{name}: {one['shared_bytes']} bytes of shared memory")
        if one["tensor_columns"] > TENSOR_COLUMNS:
            # Triton then makes a kernel of nothing but a trap.
            found.append(f"{name}: {one['tensor_columns']} columns of tensor memory")
        full = one["kernel"] in SPILLS_OUTSIDE_LOOPS or one["case"].startswith("drafts")
        outside = full and not one["loop_spills"]
        if one["stack_bytes"] and not outside:
            found.append(f"{name}: {one['stack_bytes']} bytes spilled")
        if one["float64"]:
            found.append(f"{name}: {one['float64']} float64 operands")
    return found


def loops(code: str) -> list[list[str]]:
    """What stands between every branch backwards and its target, in SASS, in order."""
    at = {
        int(line[1], 16): line[2]
        for line in re.finditer(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+ )?([^;]+);", code)
    }
    branches = ((here, re.match(r"BRA\S* .*?(0x[0-9a-f]+)", what)) for here, what in at.items())
    spans = [(int(found[1], 16), here) for here, found in branches if found]
    return [
        [what for here, what in at.items() if low <= here <= high]
        for low, high in spans
        if low <= high
    ]


def loop_spills(code: str) -> int:
    """Loads and stores of the stack in loops."""
    return sum(what.startswith(("LDL", "STL")) for loop in loops(code) for what in loop)


def table(results: list[dict[str, Any]]) -> str:
    """The largest figures of every kernel and case over the cards, widest first."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in results:
        rows.setdefault((one["kernel"], one["case"]), []).append(one)
    lines = [f"{'kernel':18} {'case':20} {'sm':24} shared  regs stack f64"]
    for (kernel, case), group in rows.items():
        cards = ",".join(str(one["card"]) for one in group)
        top = [
            max(one[field] for one in group)
            for field in ("shared_bytes", "registers", "stack_bytes", "float64")
        ]
        lines.append(
            f"{kernel:18} {case:20} {cards:24} {top[0]:6} {top[1]:5} {top[2]:5} {top[3]:3}"
        )
    return "\n".join(lines)
