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
    """Time a step that has been warmed up; caches are flushed before every repetition."""
    step()
    step()
    timer = _cuda_ms if device.type == "cuda" else _clock_ms
    times = sorted(timer(step, device) for _ in range(repeats))
    low, middle, high = (times[round(share * (repeats - 1))] for share in (0.2, 0.5, 0.8))
    return Span(low, middle, high)


def copy_rate(device: torch.device, nbytes: int, repeats: int) -> float:
    """GB/s that a plain copy reaches, reads and writes counted."""
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return measure(lambda: target.copy_(source), device, repeats).rate(2 * nbytes)


def _clock_ms(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


def _cuda_ms(step: Callable[[], object], device: torch.device) -> float:
    torch.zeros(_FLUSH_BYTES, dtype=torch.uint8, device=device)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    stop.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(stop))
