"""RMS norms on a GPU, a program for a row; the formulas are those of `reference.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops.norm.reference import Norm

__all__ = ["norm", "norm_add", "norm_kernel"]


@triton.jit
def _normed(row, weight_ptr, column, there, columns, eps, WEIGHT: tl.constexpr):
    """Row [BLOCK] float32, normed."""
    row = row * tl.rsqrt(tl.sum(row * row, 0) / columns + eps)
    if WEIGHT:
        row = row * tl.load(weight_ptr + column, mask=there, other=0.0).to(tl.float32)
    return row


@triton.jit
def norm_kernel(
    rows_ptr, weight_ptr, residual_ptr, factor_ptr, then_ptr, total_ptr, normed_ptr,
    columns, eps, then_eps,
    WEIGHT: tl.constexpr, ADD: tl.constexpr, FACTOR: tl.constexpr,
    THEN: tl.constexpr, THEN_WEIGHT: tl.constexpr, FIELDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows, residual, total and normed [N, D] are contiguous; without ADD normed is norm(rows).

    `total` is the sum, `normed` the norm of the sum where THEN, in the order of FIELDS.
    """
    line = tl.program_id(0).to(tl.int64) * columns
    # [BLOCK]
    column = tl.arange(0, BLOCK)
    there = column < columns
    kind = rows_ptr.dtype.element_ty
    row = tl.load(rows_ptr + line + column, mask=there, other=0.0).to(tl.float32)
    row = _normed(row, weight_ptr, column, there, columns, eps, WEIGHT)
    if ADD:
        residual = tl.load(residual_ptr + line + column, mask=there, other=0.0).to(tl.float32)
        row = (row.to(kind).to(tl.float32) + residual).to(kind)
        if FACTOR:
            row = (row.to(tl.float32) * tl.load(factor_ptr).to(tl.float32)).to(kind)
        tl.store(total_ptr + line + column, row, mask=there)
        row = row.to(tl.float32)
        if THEN:
            row = _normed(row, then_ptr, column, there, columns, then_eps, THEN_WEIGHT)
    if THEN:
        place = column % FIELDS * (columns // FIELDS) + column // FIELDS
        tl.store(normed_ptr + line + place, row.to(kind), mask=there)


def norm(rows: torch.Tensor, by: Norm) -> torch.Tensor:
    """x / rms(x) * weight of rows [..., D], in their dtype."""
    rows = rows.contiguous()
    normed = torch.empty_like(rows)
    _launch(rows, by, None, None, None, rows, normed)
    return normed


def norm_add(
    rows: torch.Tensor,
    by: Norm,
    residual: torch.Tensor,
    factor: torch.Tensor | None,
    then: Norm | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The sum (residual + norm(rows)) * factor and its norm by `then`, in one launch."""
    rows, residual = rows.contiguous(), residual.contiguous()
    total = torch.empty_like(rows)
    normed = None if then is None else torch.empty_like(rows)
    _launch(rows, by, residual, factor, then, total, normed)
    return total, normed


def _launch(
    rows: torch.Tensor,
    by: Norm,
    residual: torch.Tensor | None,
    factor: torch.Tensor | None,
    then: Norm | None,
    total: torch.Tensor,
    normed: torch.Tensor | None,
) -> None:
    columns = rows.shape[-1]
    block = triton.next_power_of_2(columns)
    weights = by.weight, residual, factor, None if then is None else then.weight
    norm_kernel[(rows.numel() // columns,)](
        rows, *(rows if each is None else each for each in weights), total,
        rows if normed is None else normed,
        columns, by.eps, 0.0 if then is None else then.eps,
        WEIGHT=by.weight is not None,
        ADD=residual is not None,
        FACTOR=factor is not None,
        THEN=normed is not None,
        THEN_WEIGHT=then is not None and then.weight is not None,
        FIELDS=(by if then is None else then).fields,
        BLOCK=block,
        num_warps=max(1, min(8, block // 256)),
        enable_fp_fusion=True,
    )  # fmt: skip
