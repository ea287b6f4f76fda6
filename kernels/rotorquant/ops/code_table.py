"""Centroids, and a grid of cells that finds the nearest one without a search.

Between neighbouring centroids lies a bound; the code of a value is the number of bounds below it.
Cells are so narrow that none has two bounds in it, and no bound lies where rounding could take a
value to the wrong cell. So the code is the number of bounds below the cell, and one more where the
value is above the next bound: one comparison instead of one a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["Codebook", "make_codebook"]

_MOST_CELLS = 2**14
# Of a cell's number, whose float32 product and sum are off by less than 2^-22 of it.
_MARGIN = 2.0**-20


class Codebook(NamedTuple):
    """A codebook with K codes and its grid of G cells; value v lies in cell v * per_unit + first.

    centroids: [K] float32, ascending.
    cells: [G] int64: the bits of the next bound, a float32, times 2^32, plus the number of bounds
        below the cell. Behind the last bound comes infinity.
    first, per_unit: the cell of value 0, as a float, and how many cells a unit has.
    """

    centroids: torch.Tensor
    cells: torch.Tensor
    first: float
    per_unit: float

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.centroids.shape[0].bit_length() - 1


def make_codebook(values: Sequence[float], device: torch.device) -> Codebook:
    """The codebook of 2**bits ascending centroids for unit variance.

    Raises:
        ValueError: there are not 4 centroids at least, or two nearly coincide.
    """
    centroids = torch.tensor(values, dtype=torch.float32)
    if len(values) < 4 or len(values) & (len(values) - 1):
        raise ValueError(f"{len(values)} centroids; a width in bits has 4, 8, 16 ... of them")
    bounds = (centroids[1:] + centroids[:-1]) / 2
    below, first, per_unit = _grid(bounds.double())
    following = torch.cat((bounds, bounds.new_full((1,), torch.inf)))[below]
    cells = following.view(torch.int32).long() * 2**32 + below
    return Codebook(centroids.to(device), cells.to(device), first, per_unit)


def _grid(bounds: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    """Bounds below each cell, and where the cells lie: as few as keep the bounds apart."""
    size = 8
    while size <= _MOST_CELLS:
        # All bounds lie in cells 1 to size - 2: values beyond them fall into the outer cells.
        per_unit = float((size - 3) / (bounds[-1] - bounds[0]))
        # A bound on the edge of a cell may leave it when all of them move a little.
        for shift in range(1, 20):
            first = 1 + shift / 20 - float(bounds[0]) * per_unit
            place = bounds * per_unit + first
            cell, rest = place.floor(), place.frac()
            apart = bool((cell.diff() >= 1).all())
            if apart and bool(((rest > size * _MARGIN) & (rest < 1 - size * _MARGIN)).all()):
                below = torch.searchsorted(cell, torch.arange(size, dtype=cell.dtype))
                return below, first, per_unit
        size *= 2
    raise ValueError("centroids nearly coincide")
