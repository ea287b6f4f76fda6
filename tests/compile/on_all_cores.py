"""Launches compiled in processes of their own, which do not import a package's `__main__`."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from multiprocessing import get_context

import triton

from tests.compile.compiler import Case, Launch, launches_of, measure
from tests.compile.limits import Figures

__all__ = ["compile_launches"]

_SLICE = 60  # cases to a process: what Triton keeps of a compiled kernel goes with it


def compile_launches(launches: list[Launch], wanted: Collection[str]) -> dict[str, Figures]:
    """What the wanted launches take, by digest; many are shared out over all cores."""
    cases = list(dict.fromkeys(one.case for one in launches if one.digest in wanted))
    slices = [(cases[low : low + _SLICE], wanted) for low in range(0, len(cases), _SLICE)]
    if len(slices) <= 1:
        return compile_cases(cases, wanted)
    figures: dict[str, Figures] = {}
    with get_context("spawn").Pool(maxtasksperchild=1) as pool:
        for part in pool.starmap(compile_cases, slices, chunksize=1):
            figures |= part
    return figures


def compile_cases(cases: list[Case], wanted: Collection[str]) -> dict[str, Figures]:
    """What the wanted launches of these cases take, by digest."""
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        triton.knobs.cache.dir = folder
        for launch in launches_of(cases, wanted):
            if launch.compiled is not None and launch.digest not in figures:
                figures[launch.digest] = measure(launch.compiled)
    return figures
