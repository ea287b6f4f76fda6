"""The codebooks against published optima and against their defining conditions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from rotorquant.codec.codebook import lloyd_max, lloyd_max_distortion

# J. Max, Quantizing for minimum distortion, IRE Trans. Inf. Theory 6 (1960), table 1: the positive
# output levels and the error, in four digits.
MAX_LEVELS = {
    1: (0.7980,),
    2: (0.4528, 1.510),
    3: (0.2451, 0.7560, 1.344, 2.152),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733),
    5: (0.0659, 0.1981, 0.3314, 0.4668, 0.6050, 0.7473, 0.8947, 1.049, 1.212, 1.387, 1.577)
    + (1.788, 2.029, 2.319, 2.692, 3.263),
}
MAX_ERROR = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}


@pytest.mark.parametrize("bits", MAX_LEVELS)
def test_the_levels_are_those_of_max(bits: int) -> None:
    levels = lloyd_max(bits)
    assert levels[: len(levels) // 2] == tuple(
        -level for level in reversed(levels[-len(levels) // 2 :])
    )
    # Four printed digits; his own iteration stopped within 0.15 % at 5 bits.
    assert levels[len(levels) // 2 :] == pytest.approx(MAX_LEVELS[bits], rel=1.5e-3)
    assert lloyd_max_distortion(bits) == pytest.approx(MAX_ERROR[bits], rel=3e-3)


@pytest.mark.parametrize(("bits", "error"), [(6, 0.000644), (7, 0.000163), (8, 0.000041)])
def test_the_error_of_wider_codes(bits: int, error: float) -> None:
    assert lloyd_max_distortion(bits) == pytest.approx(error, abs=5e-7)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_level_is_the_mean_of_its_cell(bits: int) -> None:
    levels = lloyd_max(bits)
    bounds = [(one + two) / 2 for one, two in pairwise(levels)]
    for level, (low, high) in zip(levels, pairwise([-math.inf, *bounds, math.inf]), strict=True):
        density = [math.exp(-edge * edge / 2) / math.sqrt(2 * math.pi) for edge in (low, high)]
        tail = [math.erfc(edge / math.sqrt(2)) / 2 for edge in (low, high)]
        mean = (density[0] - density[1]) / (tail[0] - tail[1])
        assert level == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("bits", [0, 9])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits is {bits}"):
        lloyd_max(bits)
