"""Products with packed matrices beside the bf16 product, in shares of what a copy reaches.

`python -m rqchat.bench weights`: a table for people, then one line of JSON. On a GPU the shapes are
Gemma 4 31B's, and those of 26B-A4B's experts; on a CPU they are small, the torch reference runs,
and the figures say nothing about a GPU. gemlite is measured beside, where it can be imported.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch.nn import functional

from rqchat import __version__
from rqchat.engine.weights.fit import fit
from rqchat.engine.weights.grid import INT2, INT4, INT8_ROWS, Grid, Packed
from rqchat.engine.weights.kernels.multiply import multiply, multiply_experts

try:
    import gemlite
except Exception:  # without a GPU it raises whatever its probe of the GPU raises
    gemlite = cast("Any", None)

__all__ = ["main"]

# Name, outputs, inputs
_SHAPES_31B = (
    ("q sliding", 8192, 5376),
    ("k, v sliding", 4096, 5376),
    ("o sliding", 5376, 8192),
    ("q global", 16384, 5376),
    ("k global", 2048, 5376),
    ("o global", 5376, 16384),
    ("gate, up", 21504, 5376),
    ("down", 5376, 21504),
)
_HEAD_31B = ("head", 262_144, 5376)
_EXPERTS_26B = (("experts in", 1408, 2816), ("experts out", 2816, 704))
_EXPERTS, _TOP = 128, 8
_GRIDS: dict[str, Grid] = {"int4": INT4, "int2": INT2, "int8": INT8_ROWS, "gemlite int4": INT4}
_SHRINK = 32  # on a CPU every side is that much shorter
_ROWS = (1, 4, 16, 2048)
_CPU_ROWS = (1, 4, 16, 64)
_WARM_UPS, _RUNS = 3, 20
_BEYOND_CACHE_BYTES = 2**28  # copies of a matrix are taken in turn, so that none stays in L2
_COPY_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Figure:
    """One product: `share` is its matrix's bytes a second over the copy's, or 0."""

    method: str
    layer: str
    outputs: int
    inputs: int
    rows: int
    microseconds: float
    gb_per_s: float
    share: float


def main() -> None:
    """Measures every shape and prints."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    copy_gb = _copy_gb_per_s(device)
    name = torch.cuda.get_device_name() if on_gpu else "CPU, small shapes, reference path"
    sys.stdout.write(f"{name}: a copy moves {copy_gb:.0f} GB/s\n")
    figures = []
    for figure in _figures(device, copy_gb):
        figures.append(figure)
        sys.stdout.write(
            f"{figure.method:12} {figure.layer:12} {figure.outputs:6} x {figure.inputs:5}"
            f" {figure.rows:5} rows {figure.microseconds:10.1f} us {figure.gb_per_s:8.1f} GB/s"
            f" {figure.share:6.1%}\n"
        )
    record = {
        "device": name,
        "copy_gb_per_s": copy_gb,
        "figures": [asdict(figure) for figure in figures],
        "rqchat": __version__,
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps(record) + "\n")


def _figures(device: torch.device, copy_gb: float) -> Iterator[Figure]:
    on_gpu = device.type == "cuda"
    shrink, rows = (1, _ROWS) if on_gpu else (_SHRINK, _CPU_ROWS)
    plain = [(layer, "bf16") for layer in (*_SHAPES_31B, _HEAD_31B)]
    packed = [(layer, "int4") for layer in _SHAPES_31B] + [(layer, "int2") for layer in _SHAPES_31B]
    packed += [(layer, "int8") for layer in (*_SHAPES_31B, _HEAD_31B)]
    other = [(layer, "gemlite int4") for layer in _SHAPES_31B] if gemlite and on_gpu else []
    for (layer, outputs, inputs), method in [*plain, *packed, *other]:
        # Groups of 64 must divide what is left
        size = max(64, outputs // shrink), max(64, inputs // shrink // 64 * 64)
        layers = _copies_of(method, *size, device)
        for count in rows:
            x = torch.randn(count, size[1], device=device, dtype=torch.bfloat16)
            seconds = _seconds([partial(product, x) for product in layers.products], device)
            speed = layers.nbytes / seconds / 1e9
            yield Figure(method, layer, *size, count, seconds * 1e6, speed, speed / copy_gb)
    for experts, method in [(e, m) for e in _EXPERTS_26B for m in ("int4", "int2")]:
        yield from _expert_figures(experts, method, shrink, rows, device, copy_gb)


def _expert_figures(
    experts: tuple[str, int, int],
    method: str,
    shrink: int,
    rows: Sequence[int],
    device: torch.device,
    copy_gb: float,
) -> Iterator[Figure]:
    """Products of a mixture: each row has experts of its own, and the bytes of those used count."""
    layer, outputs, inputs = experts[0], max(64, experts[1] // shrink), experts[2]
    inputs = max(64, inputs // shrink // 64 * 64)
    weight = torch.randn(_EXPERTS * outputs, inputs, device=device, dtype=torch.bfloat16)
    packed = fit(weight, _GRIDS[method])
    for count in rows:
        x = torch.randn(count, inputs, device=device, dtype=torch.bfloat16)
        draws = [
            torch.rand(count, _EXPERTS, device=device).topk(_TOP).indices.flatten()
            for _ in range(_WARM_UPS + _RUNS)
        ]
        runs = [partial(multiply_experts, x, packed, _EXPERTS, chosen) for chosen in draws]
        hit = statistics.mean(len(chosen.unique()) for chosen in draws)
        seconds = _seconds(runs, device)
        speed = packed.nbytes * hit / _EXPERTS / seconds / 1e9
        yield Figure(method, layer, outputs, inputs, count, seconds * 1e6, speed, speed / copy_gb)


@dataclass(frozen=True, slots=True)
class _Layers:
    """Products with copies of one layer, and the bytes of one copy."""

    products: list[Callable[[torch.Tensor], torch.Tensor]]
    nbytes: int


def _copies_of(method: str, outputs: int, inputs: int, device: torch.device) -> _Layers:
    """Copies of one random layer."""
    weight = torch.randn(outputs, inputs, device=device, dtype=torch.bfloat16)
    if method == "bf16":
        copies = [weight, *(weight.clone() for _ in range(_count(weight.nbytes) - 1))]
        return _Layers([partial(functional.linear, weight=w) for w in copies], weight.nbytes)
    packed = fit(weight, _GRIDS[method])
    count = _count(packed.nbytes)
    if method == "gemlite int4":
        layers = [_gemlite_layer(packed, outputs, inputs) for _ in range(count)]
        return _Layers(layers, packed.nbytes)
    clones = [_clone(packed) for _ in range(count)]
    return _Layers([partial(multiply, weight=clone) for clone in clones], packed.nbytes)


def _count(nbytes: int) -> int:
    return max(1, _BEYOND_CACHE_BYTES // nbytes) if torch.cuda.is_available() else 1


def _clone(packed: Packed) -> Packed:
    offset = None if packed.offset is None else packed.offset.clone()
    return Packed(packed.grid, packed.words.clone(), packed.scale.clone(), offset)


def _gemlite_layer(packed: Packed, outputs: int, inputs: int) -> Any:
    """gemlite's layer of the same codes; an integer zero makes it compute (code - 8) * scale."""
    kind = gemlite.DType.BF16
    layer = gemlite.GemLiteLinear(4, INT4.group, inputs, outputs, kind, kind)
    layer.pack(packed.codes(), packed.scale.bfloat16(), zeros=INT4.zero)
    return layer


def _copy_gb_per_s(device: torch.device) -> float:
    source = torch.empty(_COPY_BYTES if device.type == "cuda" else 2**26, dtype=torch.uint8)
    source = source.to(device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds([partial(target.copy_, source)], device) / 1e9


def _seconds(runs: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Median of a run, each in its turn, after warming up."""
    if device.type == "cuda":
        return _replayed_seconds(runs)
    measured: list[float] = []
    for index in range(_WARM_UPS + _RUNS):
        begun_s = time.perf_counter()
        runs[index % len(runs)]()
        measured.append(time.perf_counter() - begun_s)
    return statistics.median(measured[_WARM_UPS:])


def _replayed_seconds(runs: Sequence[Callable[[], object]]) -> float:
    """Median of replays of one graph of all runs, a run's share of it.

    A call from Python takes longer than most of these kernels, and a decode step is a graph, too.
    """
    for run in runs:  # kernels are compiled, and no capture may wait for that
        run()
    graph, measured = torch.cuda.CUDAGraph(), []
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    for _ in range(_WARM_UPS + _RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        measured.append(begin.elapsed_time(end) / 1e3 / len(runs))
    return statistics.median(measured[_WARM_UPS:])


if __name__ == "__main__":
    main()
