"""Products with the packed matrices of a mixture's experts on a GPU: each row has an expert.

The matrices of all experts lie one below the other, `outputs` rows each. A slot is a row and one of
its experts; slot s belongs to row s // share. Nothing waits for the host, and no shape depends on
which experts are hit, so a captured graph can hold both kernels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rqchat.engine.weights.grid import Packed
from rqchat.engine.weights.kernels.launch import expert_launch, gemv_launch
from rqchat.engine.weights.kernels.linear import (
    fields_of,
    grid_constants,
    multiply_row,
    multiply_tile,
    narrow,
    share_of,
    tensors_of,
)

__all__ = ["expert_dot", "expert_dot_kernel", "expert_gemv", "expert_gemv_kernel"]


@triton.jit
def expert_gemv_kernel(
    x_ptr, expert_ptr, words_ptr, high_ptr, scale_ptr, offset_ptr, out_ptr,
    outputs, share, words_per_row,
    BITS: tl.constexpr, HAS_OFFSET: tl.constexpr, GROUP: tl.constexpr, SHARE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """out [slots, outputs]: the row of each slot times the matrix of its expert [slots]."""
    slot = tl.program_id(1).to(tl.int64)
    top = tl.load(expert_ptr + slot).to(tl.int64) * outputs
    output = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = top * (words_per_row // GROUP)
    value = multiply_row(
        x_ptr + (slot // share) * words_per_row * fields_of(BITS),
        words_ptr + top * words_per_row, high_ptr + top * words_per_row,
        scale_ptr + at, offset_ptr + at,
        output[:, None], outputs, words_per_row,
        BITS, HAS_OFFSET, GROUP, SHARE, False, BLOCK_N, BLOCK_W,
    )  # fmt: skip
    target = out_ptr + slot * outputs + output
    tl.store(target, value.to(out_ptr.dtype.element_ty), mask=output < outputs)


@triton.jit
def expert_dot_kernel(
    x_ptr, order_ptr, slot_ends_ptr, tile_ends_ptr,
    words_ptr, high_ptr, scale_ptr, offset_ptr, out_ptr,
    experts, outputs, share, words_per_row,
    EXPERTS: tl.constexpr, ROWS: tl.constexpr, BITS: tl.constexpr, HAS_OFFSET: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """The same for many slots: a program takes up to ROWS of one expert.

    order [slots] sorts slots by their experts, slot_ends [experts] says where each expert's end
    there, tile_ends [experts] how many programs all up to that one take. Programs beyond rest.
    """
    tile = tl.program_id(1)
    expert = tl.arange(0, EXPERTS)
    # Experts that only fill up a power of two end behind every tile.
    tile_ends = tl.load(tile_ends_ptr + expert, mask=expert < experts, other=2**31 - 1)
    slot_ends = tl.load(slot_ends_ptr + expert, mask=expert < experts, other=0)
    before = tile_ends <= tile
    mine = tl.sum(before.to(tl.int32), axis=0)
    begin = tl.max(tl.where(before, slot_ends, 0), axis=0)
    begin += (tile - tl.max(tl.where(before, tile_ends, 0), axis=0)) * ROWS
    end = tl.sum(tl.where(expert == mine, slot_ends, 0), axis=0)
    # [ROWS, 1]
    place = begin + tl.arange(0, ROWS)[:, None]
    asked = place < end  # which is 0 for the programs that rest
    slot = tl.load(order_ptr + place, mask=asked, other=0).to(tl.int64)
    output = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    # Programs that rest point at a matrix that is there.
    top = tl.where(mine < experts, mine, 0).to(tl.int64) * outputs
    at = top * (words_per_row // GROUP)
    total = multiply_tile(
        x_ptr + (slot // share) * (words_per_row * fields_of(BITS)), asked,
        words_ptr + top * words_per_row, high_ptr + top * words_per_row,
        scale_ptr + at, offset_ptr + at, output, outputs,
        0, tl.where(mine < experts, words_per_row, 0), words_per_row,
        ROWS, BITS, HAS_OFFSET, GROUP, BLOCK_N, BLOCK_W, DOT,
    )  # fmt: skip
    slot, asked = tl.trans(slot), tl.trans(asked)
    target = out_ptr + slot * outputs + output
    tl.store(target, total.to(out_ptr.dtype.element_ty), mask=asked & (output < outputs))


def expert_gemv(
    x: torch.Tensor, weight: Packed, experts: int, chosen: torch.Tensor
) -> torch.Tensor:
    """x [rows, columns] to [slots, outputs] in x's dtype, by the experts `chosen` [slots]."""
    rows, words = weight.words.shape
    launch, outputs, slots = gemv_launch(words, weight.grid.bits), rows // experts, chosen.numel()
    out = torch.empty(slots, outputs, dtype=x.dtype, device=x.device)
    expert_gemv_kernel[(triton.cdiv(outputs, launch.block_rows), slots)](
        x.contiguous(), chosen.contiguous(), *tensors_of(weight), out,
        outputs, slots // x.shape[0], words,
        **grid_constants(weight), SHARE=share_of(weight),
        BLOCK_N=launch.block_rows, BLOCK_W=launch.block_words,
        num_warps=launch.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def expert_dot(x: torch.Tensor, weight: Packed, experts: int, chosen: torch.Tensor) -> torch.Tensor:
    """What `expert_gemv` computes, by tiles of slots that share an expert: for many slots."""
    rows, words = weight.words.shape
    outputs, slots = rows // experts, chosen.numel()
    launch, tile_rows = expert_launch(slots, experts, weight.grid.bits)
    order = chosen.argsort(stable=True)
    counts = torch.zeros(experts, dtype=torch.int64, device=x.device)
    counts.scatter_add_(0, chosen.long(), torch.ones_like(chosen, dtype=torch.int64))
    slot_ends = counts.cumsum(0).int()
    tile_ends = ((counts + tile_rows - 1) // tile_rows).cumsum(0).int()
    out = torch.empty(slots, outputs, dtype=x.dtype, device=x.device)
    # Each expert that is hit has one tile that is not full at most
    tiles = slots // tile_rows + min(experts, slots)
    expert_dot_kernel[(triton.cdiv(outputs, launch.block_rows), tiles)](
        x.contiguous(), order, slot_ends, tile_ends, *tensors_of(weight), out,
        experts, outputs, slots // x.shape[0], words,
        EXPERTS=triton.next_power_of_2(experts), ROWS=tile_rows, **grid_constants(weight),
        BLOCK_N=launch.block_rows, BLOCK_W=launch.block_words, DOT=narrow(x.dtype),
        num_warps=launch.num_warps, enable_fp_fusion=True,
    )  # fmt: skip
    return out
