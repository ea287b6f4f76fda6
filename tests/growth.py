"""How CPU time grows with the size of an input: a test oracle that no busy machine disturbs."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["growth"]

_LEAST_S = 0.02  # what is shorter, a busy machine measures wrongly

Made = TypeVar("Made")


def growth(make: Callable[[int], Made], run: Callable[[Made], object], size: int) -> float:
    """By how much the CPU time of `run` grows when its input doubles, around inputs of `size`.

    The square root of the time over `2 * size` by that over `size / 2`, so that a measurement that
    is wrong by half moves the result by a fifth. The best of three each, and no less than
    `_LEAST_S`. About 2 where the time is linear and 4 where it is quadratic; choose `size` so that
    what is to be refused takes far more than that.
    """
    gc.collect()
    gc.freeze()  # what other tests left in memory is not gone through while this one is timed
    long_s, short_s = _best_s(run, make(2 * size)), _best_s(run, make(size // 2))
    return math.sqrt(long_s / max(_LEAST_S, short_s))


def _best_s(run: Callable[[Made], object], made: Made) -> float:
    times_s = []
    for _ in range(3):
        begun_s = time.process_time()
        run(made)
        times_s.append(time.process_time() - begun_s)
    return min(times_s)
