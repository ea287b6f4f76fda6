"""Compiles kernels for cards that are not there, where the ops would launch them.

Needs a process without Triton's interpreter, as `python -m tests.compile` is.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from rotorquant.ops import dispatch
from tests.compile import chunk, encode, ops, small, weights
from tests.compile.fingerprint import digest_of
from tests.compile.limits import Figures, loop_spills

PARTS = {"ops": ops, "chunk": chunk, "encode": encode, "small": small, "weights": weights}


class Case(NamedTuple):
    """What ops do on a card; `size` is a head size, columns or rows, as the part says."""

    part: str
    what: str
    size: int
    bits: int
    card: int

    def __str__(self) -> str:
        base, *marks = self.what.split("+")
        return ", ".join((f"{base} {self.size}", f"{self.bits} bits", *marks))


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel that is launched in a case, and its compiled code if that was wanted."""

    kernel: str
    case: Case
    digest: str
    compiled: Any = None


class AbsentCard:
    """Stands for the driver of a card that is not there."""

    def __init__(self, card: int) -> None:
        self.card = card

    def get_current_device(self) -> int:
        return self.card

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.card, 32)


Note = Callable[[str, str, Any, dict[str, Any]], None]
"""Takes a kernel's name, the digest, the code (None where it was not wanted) and the options."""


class Recorder:
    """Stands for a kernel: where it would launch, it is noted, and compiled if it is wanted."""

    def __init__(self, kernel: Any, note: Note, wanted: Callable[[str], bool]) -> None:
        self.kernel, self.note, self.wanted = kernel, note, wanted
        self._digests: dict[str, str] = {}  # of what Triton has compiled, by its own hash

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            new: list[str] = []

            def skip(*, key: str, **_: Any) -> bool:
                """Called by Triton before it compiles; true tells it not to."""
                new.append(digest_of(self.kernel, driver.active.get_current_device(), key))
                return not self.wanted(new[0])

            knobs.runtime.jit_cache_hook = skip
            compiled = self.kernel.warmup(*arguments, grid=grid, **options)
            if new and compiled is not None:
                self._digests[compiled.hash] = new[0]
            digest = new[0] if new else self._digests[compiled.hash]
            self.note(self.kernel.__name__, digest, compiled, options)

        return launch


def record(note: Note, wanted: Callable[[str], bool]) -> None:
    """From now on every launch of every kernel is noted, and compiled if its digest is wanted."""
    for module, name in (kernel for part in PARTS.values() for kernel in part.KERNELS):
        kernel = getattr(module, name)
        kernel = kernel.kernel if isinstance(kernel, Recorder) else kernel
        setattr(module, name, Recorder(kernel, note, wanted))


def pretend(card: int) -> None:
    """Let the ops and Triton find this card from now on."""
    driver.set_active(AbsentCard(card))
    setattr(dispatch, "capability_of", lambda tensor: divmod(card, 10))  # noqa: B010
    setattr(dispatch, "processors_of", lambda tensor: 100)  # noqa: B010


def all_cases(few: bool) -> list[Case]:
    """Every case of every card, or what differs most and what Gemma 4 has."""
    return [Case(name, *case) for name, part in PARTS.items() for case in part.cases(few)]


def launches_of(cases: Iterable[Case], wanted: Container[str]) -> Iterator[Launch]:
    """Every launch of these cases, with the code of those that are wanted."""
    noted: list[tuple[str, str, Any]] = []
    record(
        lambda name, digest, made, *_: noted.append((name, digest, made)),
        lambda digest: digest in wanted,
    )
    for case in cases:
        pretend(case.card)
        noted.clear()
        PARTS[case.part].launch(case.what, case.size, case.bits)
        yield from (Launch(kernel, case, *rest) for kernel, *rest in noted)


def dumped(compiled: Any, what: str) -> str:
    """What cuobjdump says of compiled code."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        command = [str(tool), what, str(cubin)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def measure(compiled: Any) -> Figures:
    """What compiled code takes of the card."""
    usage = dumped(compiled, "-res-usage")
    found = {field: int(count) for field, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    stack = found["STACK"] + found["LOCAL"]
    return Figures(
        shared_bytes=compiled.metadata.shared,
        registers=found["REG"],
        stack_bytes=stack,
        # Reading the machine code takes a hundred times as long.
        loop_spills=loop_spills(dumped(compiled, "-sass")) if stack else 0,
        float64=len(re.findall(r"\.f64\b", compiled.asm["ptx"])),
        tensor_columns=getattr(compiled.metadata, "tmem_size", 0) or 0,
    )
