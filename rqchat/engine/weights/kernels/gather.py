"""Rows of a table in main memory, read by the GPU itself: a step of a captured graph can do so."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["gather_rows", "gather_rows_kernel"]

_BLOCK = 1024  # values that a program copies: a row of E2B takes nine


@triton.jit
def gather_rows_kernel(ids_ptr, table_ptr, out_ptr, columns, BLOCK: tl.constexpr):
    """out [ids, columns] = table [rows, columns] at ids; grid (ids, blocks of columns)."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(ids_ptr + place).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    seen = column < columns
    value = tl.load(table_ptr + row * columns + column, mask=seen)
    tl.store(out_ptr + place * columns + column, value, mask=seen)


def gather_rows(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Rows [n, columns], on the device of ids [n], of a table [rows, columns] with locked pages."""
    out = torch.empty(ids.numel(), table.shape[1], dtype=table.dtype, device=ids.device)
    blocks = triton.cdiv(table.shape[1], _BLOCK)
    gather_rows_kernel[(ids.numel(), blocks)](
        ids.contiguous(), table, out, table.shape[1], BLOCK=_BLOCK
    )
    return out
