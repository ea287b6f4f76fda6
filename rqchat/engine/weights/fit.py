"""Fits a matrix to a packed grid: the least squared error per group.

Symmetric grids try several steps and refine the best by least squares; a matrix that came from such
a grid finds it again. Grids with an offset alternate between rounding and the least-squares line
through (code, value), as Lloyd's algorithm does (S. Lloyd, 1982), from three starts. Half-quadratic
quantization (HQQ, Badri and Shaji, 2023) was measured worse at two bits: docs/log.md.

Where second moments of a layer's inputs are known, the error of its outputs counts instead: columns
are rounded one after the other, and those of the group that come later take over what that cost
(GPTQ: E. Frantar et al., 2022, with moments between columns of one group alone).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from rqchat.engine.weights.grid import Grid, Packed, part_values, row_parts

__all__ = ["fit", "fit_rows"]

# Largest |code| that the largest |value| may get, by bits
_STEPS = {
    4: (9.0, 8.0, 7.5, 7.0, 6.5, 6.0, 5.0, 4.0),
    3: (8.0, 7.0, 6.2, 5.5, 5.0, 4.6, 4.3, 4.0),
}
_STARTS = (0.55, 0.7, 0.85)  # share of the range between lowest and highest value
_ROUNDS = 6
_TINY = 1e-7
_DAMPING = 0.01  # of the mean second moment, added to each: GPTQ's own choice
_AT_ONCE = 32  # columns that are rounded before those behind them learn of it


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
    moments: torch.Tensor | None = None,
) -> Packed:
    """The packed form of a matrix that `read` gives some rows of at a time on `device`.

    It is kept there, or on `keep_on`. `moments` [groups, group, group] float32 are sums of the
    products of inputs of a group, for a symmetric grid with groups.

    Raises:
        ModelError: groups do not divide its columns.
    """
    group = grid.group_of(columns)
    feedback = None if moments is None else _Feedback(moments)
    return Packed.join(
        (
            _fit_part(read(part).float().unflatten(-1, (-1, group)), grid, feedback)
            for part in row_parts(rows, columns, part_values(device))
        ),
        rows,
        keep_on,
    )


def _fit_part(values: torch.Tensor, grid: Grid, feedback: _Feedback | None) -> Packed:
    """The packed form of [rows, groups, group]."""
    if feedback is not None:
        scale = _step(values, grid, feedback.importance)
        codes, scale = feedback.codes(values, scale, grid)
        return Packed.pack(grid, codes.to(torch.uint8).flatten(-2), scale.squeeze(-1), None)
    if grid.has_offset:
        scale, offset = _line(values, grid)
    else:
        scale = _rows(values) if grid.group == 0 else _step(values, grid)
        offset = -grid.zero * scale.float()
    codes = _round(values, scale.float(), offset.float(), grid)
    stored = offset.squeeze(-1) if grid.has_offset else None
    return Packed.pack(grid, codes.to(torch.uint8).flatten(-2), scale.squeeze(-1), stored)


class _Feedback:
    """Rounds columns in turn, so that the outputs of a layer err least.

    Attributes:
        importance: [groups, group], the mean square of each input.
    """

    def __init__(self, moments: torch.Tensor) -> None:
        """`moments` is [groups, group, group], sums of products of inputs."""
        diagonal = moments.diagonal(dim1=-2, dim2=-1)
        damping = (_DAMPING * diagonal.mean()).clamp_min(_TINY)
        damped = moments + damping * torch.eye(moments.shape[-1], device=moments.device)
        self._moments, self.importance = damped, damped.diagonal(dim1=-2, dim2=-1)
        # In float64: one input in a thousand may be a thousand times the others
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped.double()))
        # Row j says how much each later column has to take over of an error in column j
        self._upper = torch.linalg.cholesky(inverse, upper=True).float()

    def codes(
        self, values: torch.Tensor, scale: torch.Tensor, grid: Grid
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes [rows, groups, group], and scales [rows, groups, 1] float16 that fit them best."""
        step = scale.transpose(0, 1).float()
        step = torch.where(step.abs() < _TINY, _TINY, step)
        left = values.transpose(0, 1).clone()  # [groups, rows, group]: a product for each group
        codes = torch.empty_like(left)
        width = left.shape[-1]
        for begin in range(0, width, _AT_ONCE):
            end = min(begin + _AT_ONCE, width)
            errors = left.new_empty(*left.shape[:2], end - begin)
            for column in range(begin, end):
                here = slice(column, column + 1)
                code = (left[..., here] / step).round_().clamp_(-grid.zero, grid.zero - 1)
                codes[..., here] = code
                upper = self._upper[:, here, column:end]
                error = (left[..., here] - code * step) / upper[..., :1]
                left[..., column:end] -= error * upper
                errors[..., column - begin : column - begin + 1] = error
            left[..., end:] -= errors @ self._upper[:, begin:end, end:]
        weighed = codes @ self._moments
        fitting = (weighed * values.transpose(0, 1)).sum(-1, True)
        fitting /= (weighed * codes).sum(-1, True).clamp_min(_TINY)
        scale = torch.where(fitting.abs() < _TINY, step, fitting).half()
        return codes.add_(grid.zero).transpose(0, 1), scale.transpose(0, 1)


def _rows(values: torch.Tensor) -> torch.Tensor:
    """The scale that gives the largest magnitude of a row the code 127."""
    return (values.abs().amax(-1, keepdim=True) / 127).clamp_min(_TINY).bfloat16()


def _step(values: torch.Tensor, grid: Grid, importance: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Scales [rows, groups, 1] float16 of a symmetric grid, whose squared errors count so much."""
    largest = values.abs().amax(-1, keepdim=True).clamp_min(_TINY)
    # Of eight codes four lie below 0 and three above, so the side that reaches further gets those
    turned = (grid.bits == 3) & (values.amax(-1, True) == largest)
    sign = torch.where(turned, -1.0, 1.0)
    best = largest / _STEPS[grid.bits][0] * sign
    least = torch.full_like(best, torch.inf)
    for step in _STEPS[grid.bits]:
        scale = sign * (largest / step).half().float().clamp_min(_TINY)
        code = _symmetric(values, scale, grid)
        refined = (importance * code * values).sum(-1, True)
        refined /= (importance * code.square()).sum(-1, True).clamp_min(_TINY)
        usable = refined * sign > _TINY
        for tried in (scale, torch.where(usable, refined, scale).half().float()):
            code = _symmetric(values, tried, grid)
            error = (importance * (code * tried - values).square()).sum(-1, keepdim=True)
            best = torch.where(error < least, tried, best)
            least = torch.minimum(error, least)
    return best.half()


def _symmetric(values: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Codes from -zero to zero - 1."""
    return (values / scale).round_().clamp_(-grid.zero, grid.zero - 1)


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
        code = _round(values, scale, offset, grid)
        error = (code * scale + offset - values).square().sum(-1, keepdim=True)
        better = error < least
        best = torch.where(better, scale, best[0]), torch.where(better, offset, best[1])
        least = torch.minimum(error, least)
    return best[0].half(), best[1].half()


def _round(
    values: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, grid: Grid
) -> torch.Tensor:
    step = torch.where(scale.abs() < _TINY, _TINY, scale)  # float16 may have rounded it to 0
    code = ((values - offset) / step).round_()
    return code.clamp_(0, (1 << grid.bits) - 1)
