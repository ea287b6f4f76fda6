"""Fits a matrix to a packed grid: the least squared error per group, without calibration data.

Symmetric grids try several steps and refine the best by least squares; a matrix that came from such
a grid finds it again. Grids with an offset alternate between rounding and the least-squares line
through (code, value), as Lloyd's algorithm does (S. Lloyd, 1982), from three starts. Half-quadratic
quantization (HQQ, Badri and Shaji, 2023) was measured worse at two bits: docs/log.md.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from rqchat.engine.weights.grid import Grid, Packed, part_values, row_parts

__all__ = ["fit", "fit_rows"]

_STEPS = (9.0, 8.0, 7.5, 7.0, 6.5, 6.0, 5.0, 4.0)  # largest |code| that the largest |value| may get
_STARTS = (0.55, 0.7, 0.85)  # share of the range between lowest and highest value
_ROUNDS = 6
_TINY = 1e-7


def fit(weight: torch.Tensor, grid: Grid) -> Packed:
    """The packed form of `weight` [rows, columns], on its device."""
    rows, columns = weight.shape
    return fit_rows(lambda part: weight[part.start : part.stop], rows, columns, grid, weight.device)


def fit_rows(
    read: Callable[[range], torch.Tensor],
    rows: int,
    columns: int,
    grid: Grid,
    device: torch.device,
    keep_on: torch.device | None = None,
) -> Packed:
    """The packed form of a matrix that `read` gives some rows of at a time on `device`.

    It is kept there, or on `keep_on`.

    Raises:
        ModelError: groups do not divide its columns.
    """
    group = grid.group_of(columns)
    return Packed.join(
        (
            _fit_part(read(part).float().unflatten(-1, (-1, group)), grid)
            for part in row_parts(rows, columns, part_values(device))
        ),
        rows,
        keep_on,
    )


def _fit_part(values: torch.Tensor, grid: Grid) -> Packed:
    """The packed form of [rows, groups, group]."""
    if grid.has_offset:
        scale, offset = _line(values, grid)
    else:
        scale = _rows(values) if grid.group == 0 else _step(values, grid)
        offset = -grid.zero * scale.float()
    codes = _round(values, scale.float(), offset.float(), grid)
    stored = offset.squeeze(-1) if grid.has_offset else None
    return Packed.pack(grid, codes.to(torch.uint8).flatten(-2), scale.squeeze(-1), stored)


def _rows(values: torch.Tensor) -> torch.Tensor:
    """The scale that gives the largest magnitude of a row the code 127."""
    return (values.abs().amax(-1, keepdim=True) / 127).clamp_min(_TINY).bfloat16()


def _step(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Scales [rows, groups, 1] float16 of a symmetric grid."""
    largest = values.abs().amax(-1, keepdim=True).clamp_min(_TINY)
    best = largest / _STEPS[0]
    least = torch.full_like(best, torch.inf)
    for step in _STEPS:
        scale = (largest / step).half().float().clamp_min(_TINY)
        code = _round(values, scale, -grid.zero * scale, grid) - grid.zero
        refined = (code * values).sum(-1, True) / code.square().sum(-1, True).clamp_min(1)
        for tried in (scale, torch.where(refined > _TINY, refined, scale).half().float()):
            code = _round(values, tried, -grid.zero * tried, grid) - grid.zero
            error = (code * tried - values).square().sum(-1, keepdim=True)
            best = torch.where(error < least, tried, best)
            least = torch.minimum(error, least)
    return best.half()


def _line(values: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and offsets [rows, groups, 1] float16."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    mean, top = values.mean(-1, keepdim=True), (1 << grid.bits) - 1
    best, least = (torch.zeros_like(low), mean), torch.full_like(low, torch.inf)
    for share in _STARTS:
        scale = ((high - low) * share / top).clamp_min(_TINY)
        offset = (low + high - top * scale) / 2
        for _ in range(_ROUNDS):
            code = _round(values, scale, offset, grid)
            code_mean = code.mean(-1, keepdim=True)
            variance = code.square().mean(-1, keepdim=True) - code_mean.square()
            slope = (code * values).mean(-1, keepdim=True) - code_mean * mean
            slope /= variance.clamp_min(1e-9)
            scale = torch.where(slope > _TINY, slope, scale)
            offset = mean - scale * code_mean
        scale, offset = scale.half().float(), offset.half().float()
        # float16 may have rounded the scale to 0.
        code = _round(values, scale.clamp_min(_TINY), offset, grid)
        error = (code * scale + offset - values).square().sum(-1, keepdim=True)
        better = error < least
        best = torch.where(better, scale, best[0]), torch.where(better, offset, best[1])
        least = torch.minimum(error, least)
    return best[0].half(), best[1].half()


def _round(
    values: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, grid: Grid
) -> torch.Tensor:
    code = ((values - offset) / scale.clamp_min(_TINY)).round_()
    return code.clamp_(0, (1 << grid.bits) - 1)
