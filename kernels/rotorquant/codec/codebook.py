"""Lloyd-Max codebooks of the normal distribution, computed to machine precision.

The quantizer of N(0, 1) with least mean squared error fulfils two conditions (Lloyd 1957, Max
1960): every boundary lies midway between its two centroids, and every centroid is the mean of its
cell. Substituting the first into the second leaves one equation per centroid,

    g_i = c_i P_i - M_i = 0,   P_i = Phi(b_i+1) - Phi(b_i),   M_i = phi(b_i) - phi(b_i+1)

(phi density, Phi distribution function), whose Jacobian is tridiagonal. Newton's method from the
asymptotically optimal start, the quantiles of N(0, 3) (Panter and Dite 1951) after a few of Lloyd's
own iterations, converges in a handful of steps for up to 256 levels. No torch here.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

__all__ = ["LEGACY_CENTROIDS", "lloyd_max", "lloyd_max_distortion"]

_LLOYD_STEPS = 30  # into the region where Newton converges
_NEWTON_STEPS = 8
# The 4-bit table of the first releases of llama.cpp's `turbo4`, for unit vectors of 128 values:
# fitted to too small a variance, corrected in June 2026. Here for comparison alone.
_LEGACY_128 = (0.006938, 0.020989, 0.035597, 0.051262, 0.068756, 0.089527, 0.117195, 0.173926)
_LEGACY_POSITIVE = tuple(centroid * math.sqrt(128) for centroid in _LEGACY_128)
LEGACY_CENTROIDS = (*(-centroid for centroid in reversed(_LEGACY_POSITIVE)), *_LEGACY_POSITIVE)


@cache
def lloyd_max(bits: int) -> tuple[float, ...]:
    """The 2**bits centroids for N(0, 1), ascending and symmetric; `bits` from 1 to 8."""
    if not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits}; codebooks exist for 1 to 8")
    levels = 2**bits
    start = NormalDist(0.0, math.sqrt(3.0))
    centroids = [start.inv_cdf((i + 0.5) / levels) for i in range(levels)]
    for _ in range(_LLOYD_STEPS):
        centroids = [moment / mass for mass, moment in _cells(centroids)]
    for _ in range(_NEWTON_STEPS):
        step = _newton_step(centroids)
        centroids = [c - s for c, s in zip(centroids, step, strict=True)]
    # Rounding breaks the symmetry in the last digit; a quantizer of -x must mirror that of x.
    mirrored = reversed(centroids)
    return tuple((c - other) / 2 for c, other in zip(centroids, mirrored, strict=True))


def lloyd_max_distortion(bits: int) -> float:
    """E|x - quantized x|^2 for x ~ N(0, 1): 1 - sum_i c_i^2 P_i, as centroids are cell means."""
    cells = _cells(list(lloyd_max(bits)))
    return 1.0 - sum(c * c * mass for c, (mass, _) in zip(lloyd_max(bits), cells, strict=True))


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _cells(centroids: list[float]) -> list[tuple[float, float]]:
    """Mass P_i and first moment M_i of every cell."""
    inner = [(a + b) / 2 for a, b in zip(centroids, centroids[1:], strict=False)]
    below = [0.0, *(math.erfc(-b / math.sqrt(2)) / 2 for b in inner), 1.0]
    height = [0.0, *(_density(b) for b in inner), 0.0]
    return [(below[i + 1] - below[i], height[i] - height[i + 1]) for i in range(len(centroids))]


def _newton_step(centroids: list[float]) -> list[float]:
    """Solve J step = g; J is tridiagonal and symmetric (Thomas algorithm)."""
    cells = _cells(centroids)
    gradient = [c * mass - moment for c, (mass, moment) in zip(centroids, cells, strict=True)]
    # d g_i / d b = (c_i - b) phi(b) at the upper boundary, and b moves by half of each centroid.
    pull = [
        _density((a + b) / 2) * (b - a) / 4 for a, b in zip(centroids, centroids[1:], strict=False)
    ]
    padded = [0.0, *pull, 0.0]
    diagonal = [cells[i][0] - padded[i] - padded[i + 1] for i in range(len(centroids))]
    for i, link in enumerate(pull):
        ratio = -link / diagonal[i]
        diagonal[i + 1] += ratio * link
        gradient[i + 1] -= ratio * gradient[i]
    step = [gradient[-1] / diagonal[-1]]
    for i in range(len(pull) - 1, -1, -1):
        step.append((gradient[i] + pull[i] * step[-1]) / diagonal[i])
    return step[::-1]
