"""How CPU time grows with the size of an input: a test oracle that no busy machine disturbs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["growth"]

_LEAST_S = 0.02  # what is shorter, a busy machine measures wrongly

Made = TypeVar("Made")


def growth(make: Callable[[int], Made], run: Callable[[Made], object], size: int) -> float:
    """CPU time of `run` over an input of `2 * size`, divided by that over one of `size`.

    The best of three each, and no less than `_LEAST_S`. About 2 where the time is linear and 4
    where it is quadratic; choose `size` so that what is to be refused takes far more than that.
    """
    return _best_s(run, make(2 * size)) / max(_LEAST_S, _best_s(run, make(size)))


def _best_s(run: Callable[[Made], object], made: Made) -> float:
    times_s = []
    for _ in range(3):
        begun_s = time.process_time()
        run(made)
        times_s.append(time.process_time() - begun_s)
    return min(times_s)
