"""How fast the ops are, against a copy and against bf16, for the layers of Gemma 4 31B.

Every way to store is checked first; when one is wrong nothing is timed. On a CPU the shapes are
small and the figures say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict

import torch

from rotorquant.bench.kernels_figures import Figure, Timing, figures
from rotorquant.bench.kernels_layer import GLOBAL_WAYS, SLIDING_WAYS, WINDOW, Layer, Store, Way
from rotorquant.bench.kernels_ops import Trial, trials
from rotorquant.bench.kernels_parts import alike, parts
from rotorquant.bench.kernels_timing import copy_rate, measure
from rotorquant.bench.machine import machine
from rotorquant.codec.codebook import lloyd_max_distortion
from rotorquant.exceptions import RotorQuantError

__all__ = ["SUMMARY", "add_arguments", "gate", "run"]

SUMMARY = "time of quantize, decode and prefill attention, as a share of a copy"
_BUDGET_S = 210.0  # of four minutes, less the start and the timing under way
_GATE_TOKENS = 321
_GATE_QUERIES = 40  # of a chunk, whose last query sees everything
# Errors of some 200,000 random values, against the error expected of infinitely many.
_DRIFT = 0.05
# Products are float16 on a GPU, and weights differ by as much; keys are rounded to bfloat16.
_TOLERANCE = 2e-2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `kernels`."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, nargs="+", help="to attend to")
    parser.add_argument("--repeats", type=int, help="of every timing")
    parser.add_argument(
        "--budget-s",
        type=float,
        default=_BUDGET_S,
        help="begin no timing after so many seconds; what comes first tells most",
    )
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
    repeats = options.repeats or (20 if gpu else 3)
    timings: list[Timing] = []
    end, left_out = time.monotonic() + options.budget_s, 0
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
        for make in trials(lengths, options.only, device):
            if time.monotonic() > end:
                left_out += 1
                continue
            for trial in make():
                timings.append(_timed(trial, device, copied, repeats))
                if not options.json:
                    yield _text(timings[-1])
    reached = figures(timings if gpu else [])
    if not options.json:
        yield from _closing(reached, left_out, options.budget_s)
    yield json.dumps(
        {
            "bench": "kernels",
            **machine(device),
            "copy_gigabytes_per_s": copied,
            "timings": [asdict(timing) for timing in timings],
            "figures": [figure.record() for figure in reached],
            "left_out": left_out,
        }
    )


def _closing(reached: list[Figure], left_out: int, budget_s: float) -> Iterator[str]:
    if left_out:
        yield f"{left_out} kinds of timings were left out after {budget_s:.0f} s (--budget-s)."
    yield "Figures to reach on a GPU: measured, wanted."
    yield from (figure.text for figure in reached)


def gate(device: torch.device, only: list[str] | None) -> Iterator[str]:
    """Check every way to store, and every part of a pass.

    Raises:
        RotorQuantError: one loses more than theory says, or does not what its formula says.
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
    for part in parts(_GATE_TOKENS, _GATE_QUERIES, device) if not only else ():
        if not alike(part.step(), part.wanted()):
            raise RotorQuantError(f"{part.op}, {part.way}, is not its formula; nothing is timed")
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
