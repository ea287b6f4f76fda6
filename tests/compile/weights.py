"""What multiplies with packed weights, in sizes of Gemma 4."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rqchat.engine.weights.grid import INT2, INT3, INT4, INT8_ROWS, Grid, Packed
from rqchat.engine.weights.kernels import experts, gather, linear
from rqchat.engine.weights.kernels.launch import GEMV_ROWS, GEMV_SLOTS
from tests.compile.limits import CARDS

KERNELS = tuple(
    (module, name)
    for module in (linear, experts, gather)
    for name in module.__all__
    if name.endswith("_kernel")
)
_GRIDS = {grid.bits: grid for grid in (INT4, INT3, INT2, INT8_ROWS)}
_EXPERTS, _TOP = 128, 8


def cases(few: bool) -> Iterator[tuple[str, int, int, int]]:
    """(what, rows, bits, card): every number of rows that is a kernel of its own, or a few."""
    for card in CARDS:
        for bits in _GRIDS if card == 86 or not few else (4,):
            for rows in (1, 16) if few else (1, 4, 16, 64):
                yield "linear", rows, bits, card
            yield from ((what, 1, bits, card) for what in ("joined", "gated"))
            few_rows = (1, 512) if card in (86, 100) and bits == 4 else ()
            for rows in few_rows if few else (1, 16, 512, 2048):
                yield "experts", rows, bits, card
            yield "unpacked", 512, bits, card
        for bits in (16,) if few else (16, 8):
            yield "gathered", 1, bits, card


def launch(what: str, rows: int, bits: int) -> None:
    """Call the wrappers as packed layers do."""
    if what == "gathered":  # a row of E2B: in 16 bits, or the words of 8
        columns, dtype = (8960, torch.bfloat16) if bits == 16 else (2240, torch.int32)
        table = torch.empty(16, columns, dtype=dtype)
        gather.gather_rows(table, torch.zeros(rows, dtype=torch.int64))
        return
    grid = _GRIDS[bits]
    if what == "experts":
        x = torch.empty(rows, 2816, dtype=torch.bfloat16)
        chosen = torch.zeros(rows * _TOP, dtype=torch.int64)
        product = experts.expert_gemv if rows * _TOP <= GEMV_SLOTS else experts.expert_dot
        product(x, _empty(grid, _EXPERTS * 64, 2816), _EXPERTS, chosen)
        return
    weight = _empty(grid, 512, 5376)
    if what in ("joined", "gated"):  # as fused layers multiply
        x = torch.empty(rows, 5376, dtype=torch.bfloat16)
        if what == "gated":
            linear.gemv_gated(x, weight, weight, grid.fields)
        for count in (1, 2, 3) if what == "joined" else (3,):
            linear.gemv_joined(x, [weight] * count, ordered=True)
    elif what == "unpacked":
        linear.dequantize(weight, torch.bfloat16)
    else:
        x = torch.empty(rows, 5376, dtype=torch.bfloat16)
        (linear.gemv if rows <= GEMV_ROWS else linear.dot)(x, weight)


def _empty(grid: Grid, rows: int, columns: int) -> Packed:
    groups = columns // grid.group_of(columns)
    scale = torch.empty(rows, groups, dtype=torch.bfloat16)
    words = torch.empty(rows, columns // grid.fields, dtype=torch.int32)
    high = torch.empty_like(words, dtype=torch.int16) if grid.bits == 3 else None
    return Packed(grid, words, scale, scale if grid.has_offset else None, high)
