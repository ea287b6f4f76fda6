"""`python -m rqchat.bench memory`: the plan's bytes beside measured ones, a process for each rung.

With a GPU: Gemma 4 31B's true shapes with random weights, every rung that fits, contexts of 8K, 64K
and 256K with one picture, then the same on cards of 24 and 16 GiB that are pretended, and a 4-bit
checkpoint that is loaded from files. Without one: the pocket model and a random one of 100 million
parameters, and the table says so.

Every row is written as it comes, so a run that is cut short leaves what it had. `--budget-s` ends
it in time and names what was left out. The last line is one object of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rqchat.bench.memory_case import MID, Case, config_of
from rqchat.engine.model_files.resolve import POCKET
from rqchat.engine.planning.devices import find_devices
from rqchat.engine.planning.formats import weights_of
from rqchat.engine.planning.known_models import known_model, known_models
from rqchat.engine.planning.memory import Budget
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import WEIGHTS
from rqchat.errors import UsageError

__all__ = ["run_memory"]

_GIB = 2**30
_MOST_S = 240.0
_RAM_DISK = Path("/dev/shm")
_GPU_CONTEXTS = (8192, 65_536, 262_144)
_CPU_CONTEXTS = (8192, 24_576)
# What users of such cards get, then every rung on the whole card
_GPU_RUNGS = (
    ("int4", 4, 24), ("int3", None, 16), ("bf16", None, 0), ("int8", None, 0), ("int4", None, 0),
    ("int3", None, 0), ("int2", None, 0), ("nf4", None, 0), ("int8-bnb", None, 0),
    ("nf4", None, 24),
    ("int2", None, 24), ("int4", None, 16),
)  # fmt: skip
_HEADINGS = (
    *("model", "card", "weights", "head", "KV", "windows", "chunk", "context", "tensors planned"),
    *(
        "measured",
        "measured / planned",
        "reserved planned",
        "reserved",
        "whole plan",
        "process",
        "peak of the load",
        "placed in",
    ),
    *("host peak", "prefill tokens/s", "decode", "without capture"),
)

_SIZES = "planned_reserved", "reserved", "planned_total", "process", "load_peak"
_OUT_OF_MEMORY = "killed, as the system does where memory runs out"


class _Clock:
    """A budget in seconds and what is left of it; None is a budget without an end."""

    def __init__(self, budget_s: float | None) -> None:
        self._end_s = None if budget_s is None else time.monotonic() + budget_s

    @property
    def left_s(self) -> float:
        """Seconds; infinite without a budget."""
        return float("inf") if self._end_s is None else self._end_s - time.monotonic()

    @property
    def share_s(self) -> float:
        """Seconds that one child may take: if it hangs, others still have their turn."""
        return self.left_s if self._end_s is None else min(self.left_s, _MOST_S)


class _EndedError(Exception):
    """A child that did not finish, and why."""


class _Report:
    """A table that grows in a file and on stdout, and the records behind it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: list[dict[str, Any]] = []
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
        self.devices = ", ".join(device.name for device in find_devices())
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write(
            f"\n## {date.today().isoformat()}: {self.devices}\n",
            f"`python -m rqchat.bench memory`, Python {platform.python_version()}, {versions}.",
            "" if torch.cuda.is_available() else "No GPU: nothing here was measured on one.",
            "",
            f"| {' | '.join(_HEADINGS)} |",
            f"|{'---|' * len(_HEADINGS)}",
        )

    def write(self, *lines: str) -> None:
        """Lines as they are."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def row(self, case: Case, found: Mapping[str, Any]) -> None:
        """One context of a case, or what went wrong."""
        self.records.append({"case": asdict(case), **found})
        card = f"{case.cap_bytes / _GIB:.0f} GiB" if case.cap_bytes else find_devices()[0].name
        line = " | ".join([case.model, card, *_cells(case, found)])
        self.write(f"| {line} |")
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def run_memory(
    report: Path,
    *,
    model: str = POCKET,
    contexts: Sequence[int] = (),
    folder: Path | None = None,
    budget_s: float | None = None,
) -> list[dict[str, Any]]:
    """Measures, writes a row as each comes, and returns the records.

    Args:
        report: what the table is appended to.
        model: of the catalog, for a GPU; `pocket` stands for the largest.
        contexts: tokens; none for the usual ones.
        folder: takes the 4-bit checkpoint; None is the RAM disk where it has room.
        budget_s: seconds after which nothing is begun and what runs is ended.

    Raises:
        UsageError: no such model.
    """
    clock, table = _Clock(budget_s), _Report(report)
    on_gpu = torch.cuda.is_available()
    if on_gpu and model != POCKET and known_model(model) is None:
        known = ", ".join(each.name for each in known_models())
        raise UsageError(f"--model is {model!r}; shapes are known of {known}")
    large = (known_models()[0].name if model == POCKET else model) if on_gpu else MID
    for case in _gpu_cases(large, contexts) if on_gpu else _cpu_cases(contexts):
        _measure(case, table, clock)
    _time_load(large, folder, table, clock)
    return table.records


def _gpu_cases(model: str, contexts: Sequence[int]) -> Iterator[Case]:
    known = known_model(model)
    assert known is not None
    longest = ModelShape.from_config(known.config).max_context_tokens
    usual = tuple(sorted({min(tokens, longest) for tokens in contexts or _GPU_CONTEXTS}))
    for weights, kv_bits, cap_gib in _GPU_RUNGS:
        yield Case(model, weights, usual, kv_bits, cap_gib * _GIB)


def _cpu_cases(contexts: Sequence[int]) -> Iterator[Case]:
    usual = tuple(contexts or _CPU_CONTEXTS)
    yield Case(POCKET, None, usual, device="cpu")
    for weights in (None, "bf16", *WEIGHTS[1:]):
        yield Case(MID, weights, usual[:1], device="cpu")


def _measure(case: Case, table: _Report, clock: _Clock) -> None:
    """Writes a row for each context of `case`, also where it fails."""
    command = [sys.executable, "-m", "rqchat.bench.memory_case", json.dumps(asdict(case))]
    left, why = list(case.contexts), ""
    try:
        for line in _lines(command, clock):
            table.row(replace(case, contexts=(left.pop(0),)), json.loads(line))
    except _EndedError as ended:
        why = str(ended)
    for tokens in left:
        table.row(replace(case, contexts=(tokens,)), {"error": why})


def _lines(command: Sequence[str], clock: _Clock) -> Iterator[str]:
    """Yields the lines of JSON that a child prints, as they come.

    Raises:
        _EndedError: it failed, or its time is over.
    """
    if clock.left_s <= 0:
        raise _EndedError("left out: the time is over")
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
            # A budget without an end is infinite, which no timer takes.
            begun_s, share_s = time.monotonic(), min(clock.share_s, threading.TIMEOUT_MAX)
            timer = threading.Timer(share_s, child.kill)
            timer.start()
            try:
                assert child.stdout is not None
                yield from (line for line in child.stdout if line.startswith("{"))
            except BaseException:  # the reader has left, or Ctrl-C: the child would go on alone
                child.kill()
                raise
            finally:
                timer.cancel()
        if code := child.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [f"exit code {code}"])[-1]
            if code == -signal.SIGKILL:
                is_late = clock.left_s <= 0 or time.monotonic() - begun_s >= share_s
                last = "ended: its time is over" if is_late else _OUT_OF_MEMORY
            raise _EndedError(last)


def _time_load(model: str, folder: Path | None, table: _Report, clock: _Clock) -> None:
    """Writes a 4-bit checkpoint where there is room for it, and a line on how fast it is loaded."""
    shape = ModelShape.from_config(config_of(model))
    need = Budget(shape, True, 0, 0).weight_bytes(weights_of("int4"), 16)
    place = folder or (_RAM_DISK if _has_space(_RAM_DISK, need) else Path(tempfile.gettempdir()))
    command = [sys.executable, "-m", "rqchat.bench.load_case"]
    try:
        if not _has_space(place, need):
            raise _EndedError(f"{place} has no room for {_mb(need)}")
        with tempfile.TemporaryDirectory(dir=place) as scratch:
            list(_lines([*command, "write", scratch, model], clock))
            record = json.loads(list(_lines([*command, "load", scratch, model], clock))[-1])
        line = (
            f"{model}, int4 from files in {place}: {_mb(record['file_bytes'])} in"
            f" {record['load_s']:.1f} s, {record['share']:.0%} of the slower of reading"
            f" ({record['read_bytes_per_s'] / 1e9:.2f} GB/s) and link to the GPU"
            f" ({record['link_bytes_per_s'] / 1e9:.2f} GB/s, 0 without one); host peak"
            f" {_mb(record['host_bytes'])}."
        )
    except _EndedError as ended:
        record, line = {"error": str(ended)}, f"Loading was not timed: {ended}."
    table.records.append({"load": record})
    table.write("", line)
    sys.stdout.write(line + "\n")


def _has_space(place: Path, need_bytes: int) -> bool:
    """Whether the disk has space; a RAM disk must leave as much main memory as it takes."""
    if not place.is_dir() or shutil.disk_usage(place).free < 1.05 * need_bytes:
        return False
    return place != _RAM_DISK or find_devices()[-1].free_bytes > 2 * need_bytes


def _cells(case: Case, found: Mapping[str, Any]) -> list[str]:
    if "error" in found:
        asked = ", ".join(f"{tokens:,}" for tokens in case.contexts)
        bits = str(case.kv_bits or "-")
        error = str(found["error"])[:200]
        return [
            case.weights or "-",
            "-",
            bits,
            "-",
            "-",
            asked,
            error,
            *[""] * (len(_HEADINGS) - 9),
        ]
    planned, measured = found["planned_bytes"], found["measured_bytes"]
    return [
        *(str(found[key]) for key in ("weights", "head_bits", "kv_bits", "sliding_bits")),
        *(f"{found[f'{of}_tokens']:,}" for of in ("chunk", "context")),
        *(_mb(planned), _mb(measured), f"{measured / planned:.1%}"),
        *(_mb(found[f"{of}_bytes"]) for of in _SIZES),
        *(f"{found['placed_s']:.1f} s", _mb(found["host_bytes"])),
        *(f"{found[f'{phase}_tokens_per_s']:.1f}" for phase in ("prefill", "decode", "plain")),
    ]


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"


def main() -> None:
    """Reads what `rqchat.bench` has let through."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=POCKET)
    parser.add_argument("--contexts", type=int, nargs="*", default=())
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--report", type=Path, default=Path("docs/benchmarks/memory.md"))
    parser.add_argument("--budget-s", type=float)
    given, _ = parser.parse_known_args()
    records = run_memory(
        given.report,
        model=given.model,
        contexts=given.contexts,
        folder=given.folder,
        budget_s=given.budget_s,
    )
    last = {"benchmark": "memory", "devices": [d.name for d in find_devices()], "records": records}
    sys.stdout.write(json.dumps({**last, "cores": os.cpu_count()}) + "\n")


if __name__ == "__main__":
    main()
