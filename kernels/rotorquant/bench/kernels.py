"""How fast the ops are, against a copy and against bf16, for a global layer of Gemma 4 31B.

Every way to store is checked first; when one is wrong nothing is timed. On a CPU the shapes are
small and the figures say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch

from rotorquant.bench.kernels_layer import METHODS, Layer, Store, Way
from rotorquant.bench.kernels_timing import Span, copy_rate, measure
from rotorquant.codebook import lloyd_max_distortion
from rotorquant.errors import RotorQuantError

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "time of quantize, decode and prefill attention, as a share of a copy"
_GATE_TOKENS = 193
# Errors of some 400,000 random values, against the error expected of infinitely many.
_DRIFT = 0.05
_PREFILL_QUERIES = 64
# Products are float16 on a GPU, and weights differ by as much.
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
    ways = [way for way in METHODS if not options.only or way.name in options.only]
    lines = _report(device, ways, lengths, repeats)
    timings: list[Timing] = []
    for line in lines:
        if isinstance(line, Timing):
            timings.append(line)
        if not options.json:
            yield _text(line) if isinstance(line, Timing) else line
    yield json.dumps(
        {
            "bench": "kernels",
            "torch": torch.__version__,
            "machine": platform.machine(),
            "device": torch.cuda.get_device_name(device) if gpu else "cpu",
            "kernels": gpu and importlib.util.find_spec("triton") is not None,
            "timings": [asdict(timing) for timing in timings],
        }
    )


def _report(
    device: torch.device, ways: list[Way], lengths: list[int], repeats: int
) -> Iterator[str | Timing]:
    with torch.inference_mode():
        yield from _gate(device, ways)
        copied = copy_rate(device, 2**30 if device.type == "cuda" else 2**24, repeats)
        if device.type != "cuda":
            yield "No GPU: the references run, on small shapes. Nothing here tells of a GPU."
        yield f"A copy moves {copied:.1f} GB/s. Times are the 20th, 50th and 80th percentile."
        yield f"{'op':<10}{'way':<18}{'tokens':>8}{'ms':>27}{'GB/s':>9}{'of copy':>9}"
        for tokens in lengths:
            yield from _time(Layer(tokens, device), ways, copied, repeats)


def _gate(device: torch.device, ways: list[Way]) -> Iterator[str]:
    layer = Layer(_GATE_TOKENS, device)
    for way in ways:
        store = Store(layer, way)
        lost = store.lost()
        distortion = lloyd_max_distortion(way.bits) if way.bits < 16 else 0.0
        theory = 2 - 2 * (1 - distortion) ** 0.5
        if not abs(lost - theory) <= _DRIFT * theory:
            raise RotorQuantError(
                f"{way.name} loses {lost:.3g} of the square of a value where {theory:.3g} is "
                "expected; nothing is timed"
            )
        wanted = store.expected()
        error = float((store.attend() - wanted).abs().max() / wanted.abs().max())
        if not error < _TOLERANCE:
            raise RotorQuantError(
                f"attention over {way.name} is off by {error:.3g} of the largest output, allowed "
                f"is {_TOLERANCE}; nothing is timed"
            )
    yield f"{len(ways)} ways to store lose what theory says and give the attention of the formula."


def _time(layer: Layer, ways: list[Way], copied: float, repeats: int) -> Iterator[Timing]:
    device, tokens = layer.device, layer.value.shape[2]

    def timed(op: str, name: str, nbytes: int, step: Callable[[], object]) -> Timing:
        span = measure(step, device, repeats)
        rate = span.rate(nbytes)
        return Timing(op, name, tokens, nbytes, rate, rate / copied, span)

    key = layer.key()
    plain = 2 * key.numel() * key.element_size()
    yield timed("decode", "bf16 K+V, SDPA", plain, partial(layer.sdpa, key))
    for way in ways:
        store = Store(layer, way)
        given = layer.value.numel() * layer.value.element_size() * len(store.rows)
        yield timed("decode", way.name, store.nbytes, store.attend)
        if way.bits < 16:
            yield timed("quantize", way.name, given + store.nbytes, store.encode)
        if tokens <= 32768:
            chunk = partial(store.attend, _PREFILL_QUERIES)
            yield timed(f"prefill {_PREFILL_QUERIES}", way.name, store.nbytes, chunk)


def _text(timing: Timing) -> str:
    span = timing.span
    times = f"{span.low_ms:>9.3f}{span.middle_ms:>9.3f}{span.high_ms:>9.3f}"
    return (
        f"{timing.op:<10} {timing.way:<17}{timing.tokens:>8}{times}"
        f"{timing.gigabytes_per_s:>9.1f}{timing.share_of_copy:>9.1%}"
    )
