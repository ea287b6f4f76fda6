"""Path by path against TurboQuant, in one run: the rotation alone, quantize and pack, read.

One global layer of Gemma 4 31B (4 KV heads of 512 values, 32 query heads). Every round takes all
ways in turn, so that a busy machine slows all of them, and a ratio is the median over rounds. The
published ratios for RotorQuant's kernels against TurboQuant, 5.3 for reading a prompt and 1.28 for
decoding, were measured on a GPU; these are of the torch code on the device given.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from rotorquant.attend.packed_rows import attend_rows
from rotorquant.attend.tied_key import TiedQueries
from rotorquant.bench.kernels_layer import Layer, plain_frame
from rotorquant.codec.codec import PackedCodec
from rotorquant.codec.rotation import make_rotation
from rotorquant.ops.attend import merge

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "time of every step against TurboQuant as published and at its best"
_SEED = 0
_PUBLISHED = "turbo published"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to store and to read a layer.

    Attributes:
        name: as printed.
        mode: rotation.
        tied: V alone, else K and V.
        framed: with a calibration's map in the place of the rotation.
        undone: the rotation is undone for every key and value that is read.
    """

    name: str
    mode: str
    tied: bool
    framed: bool = False
    undone: bool = False


WAYS = (
    Way(_PUBLISHED, "haar", tied=False, undone=True),
    Way("turbo best", "hadamard", tied=False),
    Way("planar", "planar", tied=True),
    Way("aligned", "aligned", tied=True),
    Way("aligned, calibrated", "aligned", tied=True, framed=True),
)
PATHS = ("rotate", "quantize and pack", "decode: 1 position", "prefill: 64 positions")


@dataclass(frozen=True, slots=True)
class PathRow:
    """The times of one way on one path.

    Attributes:
        path, way: which.
        middle_ms: median time.
        published, best: how often as long TurboQuant takes, published and best: medians over
            rounds.
    """

    path: str
    way: str
    middle_ms: float
    published: float
    best: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `paths`."""
    parser.add_argument("--bits", type=int, default=4, choices=(2, 3, 4, 5, 6, 8))
    parser.add_argument("--tokens", type=int, default=4096, help="stored")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> Iterator[str]:
    """Lines of the report; the last one is JSON."""
    device = torch.device(options.device)
    layer = Layer(options.tokens, device)
    sides = [Side(layer, way, options.bits) for way in WAYS]
    yield (
        f"{options.tokens} tokens of one layer, {options.bits} bits, {options.rounds} rounds, "
        f"{device}; x: how often as long TurboQuant takes, as published and at its best"
    )
    yield from (f"  {side.way.name:<20}{side.token_bytes:>6} bytes a token" for side in sides)
    yield f"{'path':<23}{'way':<21}{'ms':>10}{'x published':>13}{'x best':>9}"
    rows: list[PathRow] = []
    for path in PATHS:
        for row in _compare(path, sides, options.rounds, device):
            rows.append(row)
            yield (
                f"{row.path:<23}{row.way:<21}{row.middle_ms:>10.2f}{row.published:>13.2f}"
                f"{row.best:>9.2f}"
            )
    yield json.dumps(
        {
            "bench": "paths",
            "torch": torch.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            **{name: getattr(options, name) for name in ("bits", "tokens", "rounds", "device")},
            "rows": [asdict(row) for row in rows],
        }
    )


class Side:
    """The tokens of a layer under one way, and what is timed."""

    def __init__(self, layer: Layer, way: Way, bits: int) -> None:
        self.way, self._layer = way, layer
        pairs = layer.tie.pairs if way.tied else 0
        size = layer.head_dim
        self._frame = (
            plain_frame(layer.value.shape[1], size, pairs, layer.device) if way.framed else None
        )
        self._rotation = make_rotation(way.mode, size, _SEED, layer.device, pairs)
        self._codec = PackedCodec(bits, self._rotation, size, layer.device, frame=self._frame)
        # No pairs: rows count as not readable in place, so that they are decoded first.
        if way.undone:
            self._codec.pairs = None
        self._queries: TiedQueries | None = None
        if way.tied:
            self._queries = TiedQueries(layer.tie, self._codec, layer.device)
        self._streams = [layer.value] if way.tied else [layer.key(), layer.value]
        self._rows = [self._codec.encode(stream) for stream in self._streams]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token, all heads together."""
        fields = [field for rows in self._rows for field in rows if field is not None]
        return sum(field.nbytes for field in fields) // self._layer.value.shape[2]

    def step(self, path: str) -> object:
        """Run what is timed on a path."""
        if path == PATHS[0]:
            return [self._rotate(stream.float()) for stream in self._streams]
        if path == PATHS[1]:
            return [self._codec.encode(stream) for stream in self._streams]
        return self._read(1 if path == PATHS[2] else 64)

    def _rotate(self, vectors: torch.Tensor) -> torch.Tensor:
        if self._frame is None:
            return self._rotation.apply(vectors)
        return (vectors - self._frame.offset) @ self._frame.matrix.mT

    def _read(self, positions: int) -> torch.Tensor:
        layer = self._layer
        # The same queries at each position, as no time depends on what they are.
        query = layer.grouped.repeat(1, 1, positions, 1)
        codecs = [self._codec] * len(self._rows)
        where = layer.positions if self.way.tied else None
        part = attend_rows(query, self._rows, codecs, self._queries, where, torch.bfloat16, None)
        return merge([part])


def _compare(path: str, sides: list[Side], rounds: int, device: torch.device) -> Iterator[PathRow]:
    times: dict[str, list[float]] = {side.way.name: [] for side in sides}
    for round_ in range(-1, rounds):  # the first one warms up
        for side in sides:
            taken_ms = _time_ms(lambda: side.step(path), device)  # noqa: B023
            if round_ >= 0:
                times[side.way.name].append(taken_ms)

    def ratio(name: str, other: str) -> float:
        pairs = zip(times[other], times[name], strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)

    for name, taken in times.items():
        middle_ms = statistics.median(taken)
        yield PathRow(path, name, middle_ms, ratio(name, _PUBLISHED), ratio(name, "turbo best"))


def _time_ms(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3
