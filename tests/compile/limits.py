"""What a compiled kernel may take of a card, and the table of what kernels took."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Bytes of shared memory that one block may have (CUDA C++ programming guide, compute capabilities).
SHARED_BYTES = {86: 101_376, 90: 232_448, 80: 166_912, 120: 101_376, 100: 232_448, 89: 101_376}
CARDS = tuple(SHARED_BYTES)

# Sums that fill the registers leave none for what is used before and behind their loop alone, in
# kernels that read prompts.
SPILLS_OUTSIDE_LOOPS = ("chunk_kernel", "dot_kernel", "expert_dot_kernel")
OLD_TRITON, OLD_SPILLS_BYTES = "3.6", 16  # which is short of a register or two now and then
TENSOR_COLUMNS = 512  # of a Blackwell multiprocessor (PTX, tcgen05.alloc)
_SHOWN = "registers", "stack_bytes", "loop_spills", "float64"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Figures:
    """What compiled code takes of a card.

    Registers and stack bytes are those of a thread; `loop_spills` is how often a loop uses that
    stack; `float64` counts operands; tensor memory is counted in columns.
    """

    shared_bytes: int
    registers: int
    stack_bytes: int
    loop_spills: int
    float64: int
    tensor_columns: int


def run_without_interpreter(cache: Path, module: str, *arguments: str) -> Any:
    """What `python -m module` writes to stdout as JSON, in a process that compiles."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels"))),
        "TRITON_CACHE_DIR": str(cache),
        "TRITON_INTERPRET": "0",
    }
    command = [sys.executable, "-m", module, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


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
        outside = one["kernel"] in SPILLS_OUTSIDE_LOOPS and not one["loop_spills"]
        few = one["triton"].startswith(OLD_TRITON) and one["stack_bytes"] <= OLD_SPILLS_BYTES
        if one["stack_bytes"] and not outside and not few:
            found.append(f"{name}: {one['stack_bytes']} bytes spilled")
        if one["float64"]:
            found.append(f"{name}: {one['float64']} float64 operands")
    return found


def loops(code: str) -> list[list[str]]:
    """What stands between the first instruction of a loop and the branch back to it, in order."""
    lines = re.finditer(r"/\*([0-9a-f]{4,})\*/\s+(@!?\w+ )?([^;]+);", code)
    at = {int(line[1], 16): (line[3], bool(line[2])) for line in lines}
    after = dict(zip(at, [*list(at)[1:], None], strict=True))
    jumps = {
        here: int(found[1], 16)
        for here, (what, _) in at.items()
        if (found := re.match(r"BRA\S* .*?(0x[0-9a-f]+)", what))
    }

    def ways(here: int) -> Iterator[int | None]:
        what, perhaps = at[here]
        # .DIV is taken where threads part
        if perhaps or not what.startswith(("BRA", "EXIT")) or what.startswith("BRA.DIV"):
            yield after[here]
        yield jumps.get(here)

    def reaches(here: int, around: int) -> bool:
        """Whether a way from the start comes here and does not pass `around`."""
        seen, open_ = {around}, [min(at)]
        while open_:
            one = open_.pop()
            if one not in seen:
                seen.add(one)
                open_ += [way for way in ways(one) if way in at]
        return here in seen - {around}

    # Code for threads that part stands at the end, and jumps back into the middle of a loop.
    spans = [(low, high) for high, low in jumps.items() if low <= high and not reaches(high, low)]
    return [[what for here, (what, _) in at.items() if low <= here <= high] for low, high in spans]


def loop_spills(code: str) -> int:
    """Loads and stores of the stack in loops."""
    return sum(what.startswith(("LDL", "STL")) for loop in loops(code) for what in loop)


def table(results: list[dict[str, Any]]) -> str:
    """The largest figures of every kernel and case over widths and variants, by kinds of card."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in results:
        rows.setdefault((one["kernel"], one["case"].split(",")[0]), []).append(one)
    kinds = sorted({limit: cards_of(limit) for limit in SHARED_BYTES.values()}.items())
    shared = " ".join(f"{cards:>9}" for _, cards in kinds)
    head = f"{'kernel':18} {'case':14} compiled  shared {shared}  regs  stack  in loops  f64"
    lines = [head]
    for (kernel, case), group in rows.items():
        top = {field: max(one[field] for one in group) for field in _SHOWN}
        most = [
            max(
                (one["shared_bytes"] for one in group if SHARED_BYTES[one["card"]] == limit),
                default="-",
            )
            for limit, _ in kinds
        ]
        lines.append(
            f"{kernel:18} {case:14} {len(group):8}         "
            + " ".join(f"{bytes_:>9}" for bytes_ in most)
            + "  {registers:4}  {stack_bytes:5}  {loop_spills:8}  {float64:3}".format(**top)
        )
    return "\n".join(lines)


def cards_of(limit: int) -> str:
    """The cards that have so many bytes of shared memory."""
    return ",".join(str(card) for card, has in SHARED_BYTES.items() if has == limit)
