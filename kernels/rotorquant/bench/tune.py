"""The quickest launch of every kernel on the GPU at hand, as entries of `ops/launches.py`.

Candidates that do not compile for the card, or change the result, are passed over.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch

from rotorquant.bench.kernels_layer import WINDOW, Layer, Store, Way
from rotorquant.bench.kernels_timing import measure
from rotorquant.errors import RotorQuantError
from rotorquant.ops import launches

__all__ = ["SUMMARY", "add_arguments", "run", "source"]

SUMMARY = "time candidate launches on a GPU and write the launch table"
_ATTEND = tuple(product((16,), (16, 32, 64), (4, 8), (1, 2, 3)))
_ROWS = tuple(product((1, 2, 4, 8, 16), (1, 2, 4, 8)))
_TOLERANCE = 2e-2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tune`."""
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--repeats", type=int, default=20)
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
    with torch.inference_mode():
        for bits in (8, 6, 5, 4, 3, 2, 16):
            layer = Layer(options.tokens, device)
            store = Store(layer, Way(f"aligned {bits}", "aligned", bits))
            yield from _tuned(store.attend, _ATTEND, device, options.repeats)
            if bits < 16:
                store = Store(Layer(8192, device), Way(f"planar {bits}", "planar", bits))
                yield from _tuned(store.encode, _ROWS, device, options.repeats)
        for bits in (16, 8):
            layer = Layer(WINDOW + 64, device, sliding=True)
            store = Store(layer, Way("ring", "aligned", bits, tied=False))
            yield from _tuned(store.attend, _ATTEND, device, options.repeats)
    text = source(Path(launches.__file__))
    if options.write is not None:
        options.write.write_text(text, encoding="utf-8")
    yield text if options.write is None else f"written to {options.write}"


def _tuned(
    step: Callable[[], object],
    candidates: tuple[tuple[int, ...], ...],
    device: torch.device,
    repeats: int,
) -> Iterator[str]:
    """Time the candidates for every launch of their form that `step` asks for; keep the best."""
    asked: dict[launches.Key, tuple[int, ...]] = {}
    wanted = _listened(step, asked)
    forms = {key: value for key, value in asked.items() if len(value) == len(candidates[0])}
    for key, before in forms.items():
        times = {before: _time(step, device, repeats)}
        for candidate in candidates:
            launches.TABLE[key] = candidate
            try:
                if _alike(step(), wanted):
                    times[candidate] = _time(step, device, repeats)
            except Exception:  # whatever a compiler says of too much memory or too few registers
                torch.cuda.synchronize(device)
        best = min(times, key=lambda each: times[each])
        launches.TABLE[key] = best
        yield f"{key}: {best}, {times[best]:.4f} ms; before {before}, {times[before]:.4f} ms"


def _listened(step: Callable[[], object], asked: dict[launches.Key, tuple[int, ...]]) -> object:
    """Run a step and write down which launches it asks for."""
    look_up = launches.timed

    def listening(key: launches.Key, reckoned: tuple[int, ...]) -> tuple[int, ...]:
        asked[key] = look_up(key, reckoned)
        return asked[key]

    setattr(launches, "timed", listening)  # noqa: B010
    try:
        return step()
    finally:
        setattr(launches, "timed", look_up)  # noqa: B010


def source(path: Path) -> str:
    """The file of the table with what the table holds now."""
    start = "TABLE: dict[Key, tuple[int, ...]] = "
    before, _, after = path.read_text(encoding="utf-8").partition(start)
    _, _, rest = after.partition("}\n")
    entries = [f"    {key!r}: {value!r},\n" for key, value in sorted(launches.TABLE.items())]
    table = f"{{\n{''.join(entries)}}}" if entries else "{}"
    return f"{before}{start}{table}\n{rest}"


def _time(step: Callable[[], object], device: torch.device, repeats: int) -> float:
    return measure(step, device, repeats).middle_ms


def _alike(own: object, wanted: object) -> bool:
    if isinstance(own, torch.Tensor) and isinstance(wanted, torch.Tensor):
        error = (own.float() - wanted.float()).abs().max() / wanted.float().abs().max()
        return bool(error < _TOLERANCE)
    if isinstance(own, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return all(_alike(a, b) for a, b in zip(own, wanted, strict=True))
    return own is None and wanted is None
