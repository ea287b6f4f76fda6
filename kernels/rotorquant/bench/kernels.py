"""How fast the ops are, against a copy and against bf16, for the layers of Gemma 4 31B.

Every way to store is checked first; when one is wrong nothing is timed. On a CPU the shapes are
small and the figures say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from rotorquant.bench.kernels_layer import GLOBAL_WAYS, SLIDING_WAYS, WINDOW, Layer, Store, Way
from rotorquant.bench.kernels_ops import Trial, trials
from rotorquant.bench.kernels_timing import Span, copy_rate, measure
from rotorquant.bench.machine import machine
from rotorquant.codebook import lloyd_max_distortion
from rotorquant.errors import RotorQuantError

__all__ = ["SUMMARY", "add_arguments", "gate", "run"]

SUMMARY = "time of quantize, decode and prefill attention, as a share of a copy"
_GATE_TOKENS = 321
_GATE_QUERIES = 40  # of a chunk, whose last query sees everything
# Errors of some 200,000 random values, against the error expected of infinitely many.
_DRIFT = 0.05
# Products are float16 on a GPU, and weights differ by as much; keys are rounded to bfloat16.
_TOLERANCE = 2e-2


@dataclass(frozen=True, slots=True)
class Timing:
    """One line: an op over the tokens of one layer, and the bytes that it must move."""

    op: str
    way: str
    tokens: int
    nbytes: int
    gigabytes_per_s: float
    share_of_copy: float
    teraflops: float
    span: Span


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `kernels`."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, nargs="+", help="to attend to")
    parser.add_argument("--repeats", type=int, help="of every timing")
    parser.add_argument("--only", nargs="+", help="names of ways to store")
    parser.add_argument("--json", action="store_true", help="no table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Lines of the report; the last one is JSON.

    Raises:
        RotorQuantError: an op is wrong; there are no timings then.
    """
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    lengths = options.tokens or ([8192, 32768, 131072, 262144] if gpu else [512])
    repeats = options.repeats or (30 if gpu else 3)
    timings: list[Timing] = []
    copied = 0.0
    with torch.inference_mode():
        notes = list(gate(device, options.only))
        copied = copy_rate(device, 2**30 if gpu else 2**24, repeats)
        if not gpu:
            notes.append(
                "No GPU: the references run, on small shapes. Nothing here tells of a GPU."
            )
        notes.append(f"A copy moves {copied:.1f} GB/s. Times: 20th, 50th and 80th percentile.")
        notes.append(_HEAD)
        if not options.json:
            yield from notes
        for trial in trials(lengths, options.only, device):
            timings.append(_timed(trial, device, copied, repeats))
            if not options.json:
                yield _text(timings[-1])
    figures = _figures(timings) if gpu else []
    if not options.json:
        yield from figures
    yield json.dumps(
        {
            "bench": "kernels",
            **machine(device),
            "copy_gigabytes_per_s": copied,
            "timings": [asdict(timing) for timing in timings],
            "figures": figures,
        }
    )


def gate(device: torch.device, only: list[str] | None) -> Iterator[str]:
    """Check every way to store.

    Raises:
        RotorQuantError: one loses more than theory says, or attends wrongly.
    """
    checked = 0
    for sliding, ways in ((False, GLOBAL_WAYS), (True, SLIDING_WAYS)):
        layer = Layer(WINDOW + 33 if sliding else _GATE_TOKENS, device, sliding)
        for way in ways:
            if not only or way.name in only:
                _check(Store(layer, way))
                checked += 1
    chunk = Layer(_GATE_TOKENS, device, queries=_GATE_QUERIES)
    for way in GLOBAL_WAYS:
        if not (way.sdpa or way.published or (only and way.name not in only)):
            _check(Store(chunk, way))
    yield f"{checked} ways to store lose what theory says and give the attention of the formula."


def _check(store: Store) -> None:
    way = store.way
    if not store.layer.sliding:
        lost, theory = store.lost(), _theory(way)
        if not abs(lost - theory) <= _DRIFT * theory:
            raise RotorQuantError(
                f"{way.name} loses {lost:.3g} of the square of a value where {theory:.3g} is "
                "expected; nothing is timed"
            )
    wanted = store.expected()
    error = float((store.attend()[:, -1:] - wanted).abs().max() / wanted.abs().max())
    if not error < _TOLERANCE:
        raise RotorQuantError(
            f"attention over {way.name} is off by {error:.3g} of the largest output, allowed "
            f"is {_TOLERANCE}; nothing is timed"
        )


def _theory(way: Way) -> float:
    """Expected error of Gaussian vectors; the matched norm stretches by 1 / sqrt(1 - D)."""
    if way.bits == 16:
        return 0.0
    distortion = lloyd_max_distortion(way.bits)
    return distortion if way.published else 2 - 2 * (1 - distortion) ** 0.5


def _timed(trial: Trial, device: torch.device, copied: float, repeats: int) -> Timing:
    span = measure(trial.step, device, repeats)
    rate = span.rate(trial.nbytes)
    teraflops = trial.flops / span.middle_ms / 1e9
    return Timing(
        trial.op, trial.way, trial.tokens, trial.nbytes, rate, rate / copied, teraflops, span
    )


_HEAD = f"{'op':<13}{'way':<20}{'tokens':>8}{'ms':>27}{'GB/s':>9}{'of copy':>9}{'TFLOP/s':>9}"


def _text(timing: Timing) -> str:
    span = timing.span
    times = f"{span.low_ms:>9.3f}{span.middle_ms:>9.3f}{span.high_ms:>9.3f}"
    work = f"{timing.teraflops:>9.2f}" if timing.teraflops else ""
    return (
        f"{timing.op:<13}{timing.way:<20}{timing.tokens:>8}{times}"
        f"{timing.gigabytes_per_s:>9.1f}{timing.share_of_copy:>9.1%}{work}"
    )


def _figures(timings: list[Timing]) -> list[str]:
    """The ratios that the kernels are made for, of whatever was timed at the longest length."""
    lines = []
    for op in ("decode", "quantize"):
        longest = max((each.tokens for each in timings if each.op == op), default=0)
        found = {t.way: t for t in timings if (t.op, t.tokens) == (op, longest)}
        for bits in (8, 4, 3, 2):
            own = found.get(f"aligned {bits}")
            others = [
                f"{found[name].span.middle_ms / own.span.middle_ms:.2f}x {name}"
                for name in ("bf16 K+V, SDPA", f"turbo, published {bits}", f"turbo, best {bits}")
                if own is not None and name in found
            ]
            if own is not None:
                parts = [f"{own.share_of_copy:.0%} of a copy", *others]
                lines.append(f"{op}, aligned {bits}, {longest} tokens: {', '.join(parts)}")
    return lines + _prefill_figures(timings)


def _prefill_figures(timings: list[Timing]) -> list[str]:
    """What reading packed history leaves of the speed of the same kernel over bfloat16."""
    read = [each for each in timings if each.op.startswith("prefill")]
    longest = max((each.tokens for each in read), default=0)
    found = {each.way: each for each in read if each.tokens == longest}
    plain = found.pop("bf16 K+V", None)
    if plain is None:
        return []
    return [
        f"{each.op}, {name}, {longest} tokens: {each.teraflops / plain.teraflops:.0%} of bf16 K+V"
        for name, each in found.items()
        if name.startswith("aligned")
    ]
