"""Percentiles of how long something takes on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Span", "copy_rate", "measure"]

_FLUSH_BYTES = 2**28  # more than any cache between memory and processors


@dataclass(frozen=True, slots=True)
class Span:
    """20th, 50th and 80th percentile, in milliseconds."""

    low_ms: float
    middle_ms: float
    high_ms: float

    def rate(self, nbytes: int) -> float:
        """GB/s of that many bytes in the median time."""
        return nbytes / self.middle_ms / 1e6


def measure(step: Callable[[], object], device: torch.device, repeats: int) -> Span:
    """Time a step that has been warmed up; caches are flushed before every repetition.

    On a GPU the step is captured as a graph and replayed: what is timed is the device, not Python.
    """
    step()
    step()
    times = sorted(
        _cuda_ms(step, device, repeats) if device.type == "cuda" else _clock_ms(step, repeats)
    )
    low, middle, high = (times[round(share * (repeats - 1))] for share in (0.2, 0.5, 0.8))
    return Span(low, middle, high)


def copy_rate(device: torch.device, nbytes: int, repeats: int) -> float:
    """GB/s that a plain copy reaches, reads and writes counted."""
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return measure(lambda: target.copy_(source), device, repeats).rate(2 * nbytes)


def _clock_ms(step: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _cuda_ms(step: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)
    torch.cuda.synchronize(device)
    graph, times = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        step()
    for _ in range(repeats):
        flush.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize(device)
        times.append(float(start.elapsed_time(stop)))
    return times
