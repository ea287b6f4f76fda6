"""The quickest launch of every kernel on the GPU at hand, as entries of `ops/launches.py`.

Candidates that do not compile for the card, or change the result, are passed over. What is worth
most comes first, and the table is written after every kernel: when time runs out it holds what was
found so far.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from rotorquant.bench.kernels_layer import WINDOW, Layer, Store, Way
from rotorquant.bench.kernels_parts import alike, chunk_part, rebuild_part
from rotorquant.bench.kernels_timing import measure
from rotorquant.exceptions import RotorQuantError
from rotorquant.ops import launches

__all__ = ["SUMMARY", "add_arguments", "run", "source"]

SUMMARY = "time candidate launches on a GPU and write the launch table"
_BUDGET_S = 210.0  # of four minutes, less the start and the timing under way
_PACK_TOKENS = 8192
_CHUNK = 1024
_DRAFTS = 4
# Queries or vectors, keys or columns, warps, stages: those that compile for every card, and more
# that fit only some. A compiler takes seconds for each.
_ATTEND = ((8, 32, 4, 1), (8, 32, 4, 2), (8, 16, 4, 2), (8, 64, 4, 1), (8, 32, 8, 1))
_WIDE = ((32, 16, 8, 1), (16, 16, 4, 1), (16, 16, 4, 2), (32, 16, 8, 2), (32, 32, 8, 1))
_CHUNKS = tuple(
    (rows, keys, 8, stages)
    for rows, keys, stages in ((64, 32, 2), (64, 16, 2), (64, 32, 3), (128, 32, 2), (128, 64, 2))
)
_ROWS = ((8, 4), (4, 4), (16, 4), (16, 8), (8, 8))
_MAPS = ((16, 16, 8, 1), (16, 16, 16, 1), (16, 32, 8, 1), (16, 16, 8, 2))

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Subject:
    """Launches of a kernel, and what makes the step that asks for them."""

    kernel: str
    candidates: tuple[tuple[int, ...], ...]
    make: Callable[[], Step]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tune`."""
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--budget-s",
        type=float,
        default=_BUDGET_S,
        help="begin no candidate after so many seconds; what is worth most comes first",
    )
    parser.add_argument("--write", type=Path, help="launches.py, to be rewritten")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Iterator[str]:
    """A line for every launch that was chosen; the last one is where the table is.

    Raises:
        RotorQuantError: there is no GPU.
    """
    device = torch.device(options.device)
    if device.type != "cuda" or not torch.cuda.is_available():
        raise RotorQuantError("launches are timed on a GPU, and there is none; nothing was changed")
    yield from tune(subjects(options.tokens, device), device, options)


def tune(listed: list[Subject], device: torch.device, options: argparse.Namespace) -> Iterator[str]:
    """Tune one subject after the other until the budget is spent."""
    end, left_out = time.monotonic() + options.budget_s, 0
    path = Path(launches.__file__)
    with torch.inference_mode():
        for subject in listed:
            if time.monotonic() > end:
                left_out += 1
                continue
            yield from _tuned(subject, device, options.repeats, end)
            if options.write is not None:
                options.write.write_text(source(path), encoding="utf-8")
    if left_out:
        yield f"{left_out} of {len(listed)} were left as they are after {options.budget_s:.0f} s."
    yield source(path) if options.write is None else f"written to {options.write}"


@dataclass(frozen=True, slots=True)
class _Makers:
    """Steps over layers of Gemma 4 31B with `tokens` tokens, made when they are wanted."""

    tokens: int
    device: torch.device

    def attend(self, bits: int, queries: int = 1, framed: bool = False) -> Step:
        way = Way("tuned", "aligned", bits, framed=framed)
        return Store(Layer(self.tokens, self.device, queries=queries), way).attend

    def ring(self, bits: int) -> Step:
        layer = Layer(WINDOW + 64, self.device, sliding=True)
        return Store(layer, Way("ring", "aligned", bits, tied=False)).attend

    def pack(self, mode: str, bits: int, framed: bool = False) -> Step:
        way = Way("tuned", mode, bits, framed=framed)
        return Store(Layer(self._some, self.device), way).encode

    def chunk(self, sliding: bool) -> Step:
        return chunk_part(self._some, min(_CHUNK, self._some // 2), self.device, sliding).step

    def rebuild(self, bits: int) -> Step:
        return rebuild_part(self._some, bits, self.device).step

    @property
    def _some(self) -> int:
        return min(self.tokens, _PACK_TOKENS)


def subjects(tokens: int, device: torch.device) -> list[Subject]:
    """What is tuned, the most telling first: Gemma 4 31B's layers."""
    make = _Makers(tokens, device)
    first = [
        *(Subject("attend", _ATTEND, partial(make.attend, bits)) for bits in (4, 6)),
        Subject("chunk", _CHUNKS, partial(make.chunk, False)),
        Subject("mix", _ROWS, partial(make.pack, "aligned", 4)),
        Subject("quantize", _ROWS, partial(make.pack, "planar", 4)),
        Subject("rebuild", _ROWS, partial(make.rebuild, 4)),
        Subject("chunk", _CHUNKS, partial(make.chunk, True)),
        *(Subject("attend", _ATTEND, partial(make.ring, bits)) for bits in (16, 8)),
        Subject("attend", _WIDE, partial(make.attend, 4, _DRAFTS)),
        Subject("map", _MAPS, partial(make.pack, "aligned", 4, True)),
        Subject("attend", _ATTEND, partial(make.attend, 4, 1, True)),
    ]
    others = [
        subject
        for bits in (3, 8, 2, 6, 5)
        for subject in (
            *([] if bits == 6 else [Subject("attend", _ATTEND, partial(make.attend, bits))]),
            Subject("mix", _ROWS, partial(make.pack, "aligned", bits)),
            Subject("rebuild", _ROWS, partial(make.rebuild, bits)),
            Subject("attend", _WIDE, partial(make.attend, bits, _DRAFTS)),
            Subject("map", _MAPS, partial(make.pack, "aligned", bits, True)),
        )
    ]
    return [*first, *others, Subject("attend", _ATTEND, partial(make.attend, 16))]


def _tuned(subject: Subject, device: torch.device, repeats: int, end: float) -> Iterator[str]:
    """Time the candidates for every launch of the kernel that the step asks for; keep the best."""
    step = subject.make()
    requested: dict[launches.Key, tuple[int, ...]] = {}
    wanted = _copied(_run_and_record(step, requested))
    for key, before in requested.items():
        if key[0] != subject.kernel:
            continue
        times = {before: _time(step, device, repeats)}
        for candidate in subject.candidates:
            if candidate == before or time.monotonic() > end:
                continue
            launches.TABLE[key] = candidate
            try:
                if alike(step(), wanted):
                    times[candidate] = _time(step, device, repeats)
            except Exception:  # whatever a compiler says of too much memory or too few registers
                _settle(device)
        best = min(times, key=lambda each: times[each])
        launches.TABLE[key] = best
        yield f"{key}: {best}, {times[best]:.4f} ms; before {before}, {times[before]:.4f} ms"


def _run_and_record(step: Step, requested: dict[launches.Key, tuple[int, ...]]) -> object:
    """Run a step and write down which launches it asks for."""
    look_up = launches.timed

    def recording(key: launches.Key, estimated: tuple[int, ...]) -> tuple[int, ...]:
        requested[key] = look_up(key, estimated)
        return requested[key]

    launches.timed = recording
    try:
        return step()
    finally:
        launches.timed = look_up


def source(path: Path) -> str:
    """The file of the table with what the table holds now."""
    start = "TABLE: dict[Key, tuple[int, ...]] = "
    before, _, after = path.read_text(encoding="utf-8").partition(start)
    _, _, rest = after.partition("}\n")
    entries = [f"    {key!r}: {value!r},\n" for key, value in sorted(launches.TABLE.items())]
    table = f"{{\n{''.join(entries)}}}" if entries else "{}"
    return f"{before}{start}{table}\n{rest}"


def _time(step: Step, device: torch.device, repeats: int) -> float:
    return measure(step, device, repeats).middle_ms


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _copied(result: object) -> object:
    """A copy of a result, which the next step would overwrite."""
    if isinstance(result, torch.Tensor):
        return result.clone()
    return [_copied(each) for each in result] if isinstance(result, (list, tuple)) else result
