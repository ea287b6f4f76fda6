"""Compiles the weight kernels for cards that are not there, as `tests.compile.ops` does.

Needs a process without Triton's interpreter: `python -m tests.compile.weights few|all`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from triton.runtime import driver

from rqchat.engine.weights.grid import INT2, INT4, INT8_ROWS, Grid, Packed
from rqchat.engine.weights.kernels import experts, linear
from rqchat.engine.weights.kernels.launch import GEMV_SLOTS
from tests.compile.limits import report
from tests.compile.ops import CARDS, Absent, Compiler, Result, measure

EXPERTS, TOP = 128, 8


def empty(grid: Grid, rows: int, columns: int) -> Packed:
    groups = columns // grid.group_of(columns)
    scale = torch.zeros(rows, groups, dtype=torch.bfloat16)
    words = torch.zeros(rows, columns // grid.fields, dtype=torch.int32)
    return Packed(grid, words, scale, scale if grid.has_offset else None)


def compile_all(few: bool) -> Iterator[Result]:
    """Every grid and number of rows that is a kernel of its own, or what differs most."""
    compiled: list[tuple[str, Any]] = []
    for module in (linear, experts):
        for name in (name for name in module.__all__ if name.endswith("_kernel")):
            setattr(module, name, Compiler(getattr(module, name), compiled))
    for card in CARDS:
        driver.set_active(Absent(card))
        for grid in (INT4, INT2, INT8_ROWS) if card == 86 or not few else (INT4,):
            weight = empty(grid, 512, 5376)
            for rows in (1, 16) if few else (1, 4, 16, 64):
                x = torch.zeros(rows, 5376, dtype=torch.bfloat16)
                compiled.clear()
                (linear.gemv if rows <= 4 else linear.dot)(x, weight)
                for name, made in compiled:
                    yield measure(name, f"{grid.bits} bits, {rows} rows", card, made)
            matrices = empty(grid, EXPERTS * 64, 2816)
            for rows in _expert_rows(few, card, grid):
                x = torch.zeros(rows, 2816, dtype=torch.bfloat16)
                chosen = torch.zeros(rows * TOP, dtype=torch.int64)
                compiled.clear()
                few_slots = rows * TOP <= GEMV_SLOTS
                product = experts.expert_gemv if few_slots else experts.expert_dot
                product(x, matrices, EXPERTS, chosen)
                yield measure(
                    compiled[0][0], f"{grid.bits} bits, {rows} rows", card, compiled[0][1]
                )
            compiled.clear()
            linear.dequantize(weight, torch.bfloat16)
            yield measure(compiled[0][0], f"{grid.bits} bits", card, compiled[0][1])


def _expert_rows(few: bool, card: int, grid: Grid) -> tuple[int, ...]:
    if few:
        return (1, 512) if card in (86, 100) and grid == INT4 else ()
    return 1, 16, 512, 2048


if __name__ == "__main__":
    sys.exit(report(map(asdict, compile_all(sys.argv[1] == "few"))))
