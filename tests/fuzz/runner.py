"""Tries surfaces of the program with inputs made from a seed, and says what went wrong.

A surface is a module `fuzz_NAME.py` here with one function, `try_one(random, folder)`: it makes an
input from `random`, in the empty `folder` where it needs files, and hands it to the program. It
returns, or raises RqchatError; anything else is a finding. The same seed makes the same cases.
"""

from __future__ import annotations

import importlib
import random
import re
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rqchat.errors import RqchatError

__all__ = ["Finding", "Surface", "Tally", "run", "surfaces", "try_case"]

Surface = Callable[[random.Random, Path], None]

CPU_LIMIT_S = 30.0  # of one case, children included
MEMORY_LIMIT_BYTES = 2 * 2**30
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a case came to that it must not: `kind` is traceback, hang, memory or control."""

    surface: str
    case: int
    kind: str
    detail: str


@dataclass
class Tally:
    """What the cases of one surface came to; `worst_cpu_s` is the longest of them."""

    cases: int = 0
    refused: int = 0
    worst_cpu_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)


class _TooLongError(BaseException):
    """No `Exception`, which borders turn into sentences."""


def surfaces() -> dict[str, Surface]:
    """Every surface by its name."""
    found = sorted(Path(__file__).parent.glob("fuzz_*.py"))
    return {
        path.stem.removeprefix("fuzz_"): importlib.import_module(f"tests.fuzz.{path.stem}").try_one
        for path in found
    }


def run(chosen: dict[str, Surface], *, cases: int, seed: int, seconds: float) -> dict[str, Tally]:
    """Takes turns among the `chosen` surfaces, `cases` in all, for `seconds` at most."""
    tallies = {name: Tally() for name in chosen}
    ends_s = time.monotonic() + seconds
    names: Sequence[str] = tuple(chosen)
    for number in range(cases):
        if time.monotonic() > ends_s:
            break
        name = names[number % len(names)]
        try_case(name, chosen[name], seed, number // len(names), tallies[name])
    return tallies


def try_case(name: str, surface: Surface, seed: int, case: int, tally: Tally) -> None:
    """One case, counted in `tally`."""
    made = random.Random(f"{seed}/{name}/{case}")
    begun_s, said, failure = _cpu_s(), "", ""
    _forget_peak()
    with tempfile.TemporaryDirectory() as folder, _interrupted_after(CPU_LIMIT_S):
        try:
            surface(made, Path(folder))
        except RqchatError as error:
            said = str(error)
            tally.refused += 1
        except _TooLongError:
            pass  # the clock below says so, also where a border has caught it
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failure = "".join(traceback.format_exception(error))
    cpu_s, peak_bytes = _cpu_s() - begun_s, _peak_bytes()
    tally.cases += 1
    tally.worst_cpu_s = max(tally.worst_cpu_s, cpu_s)
    for kind, detail in (
        ("traceback", failure),
        ("hang", f"{cpu_s:.1f} s of CPU" if cpu_s > 0.9 * CPU_LIMIT_S else ""),
        ("memory", f"{peak_bytes / 2**20:.0f} MiB" if peak_bytes > MEMORY_LIMIT_BYTES else ""),
        ("control", repr(said) if _CONTROL.search(said) else ""),
    ):
        if detail:
            tally.findings.append(Finding(name, case, kind, detail))


@contextmanager
def _interrupted_after(cpu_s: float) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _cpu_s() -> float:
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _forget_peak() -> None:
    if _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    """The most memory that this process had since `_forget_peak`, on Linux."""
    found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text() if _STATUS.exists() else "")
    return int(found[1]) * 1024 if found else 0
