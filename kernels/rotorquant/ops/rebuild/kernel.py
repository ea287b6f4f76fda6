"""Rebuild keys and values on a GPU, in one launch; the formulas are those of `reference.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops import dispatch
from rotorquant.ops.attend import Rows
from rotorquant.ops.dequantize.kernel import pairs_of, tile
from rotorquant.ops.launches import RowsLaunch, launch_rows
from rotorquant.ops.rebuild.reference import Twist

__all__ = ["constants", "rebuild", "rebuild_kernel"]


@triton.jit(do_not_specialize=["tokens"])
def rebuild_kernel(
    primary_ptr, extra_ptr, scale_ptr, table_ptr,
    first_ptr, second_ptr, still_ptr, matrix_ptr, offset_ptr, cos_ptr, sin_ptr,
    key_ptr, value_ptr, heads, tokens, pairs,
    primary_batch, primary_head, primary_token, extra_batch, extra_head, extra_token,
    scale_batch, scale_head, scale_token,
    D: tl.constexpr, P: tl.constexpr, E: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keys and values [B, H, N, D], contiguous; without PAIRS values alone.

    Grid (token blocks, B H). What a `Twist` holds is contiguous.
    """
    both = tl.program_id(1).to(tl.int64)
    batch, head = both // heads, both % heads
    # [BLOCK, 1], [BLOCK, D]
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    there = token < tokens
    planes = primary_ptr + batch * primary_batch + head * primary_head + token * primary_token
    extras = extra_ptr + batch * extra_batch + head * extra_head + token * extra_token
    place = batch * scale_batch + head * scale_head + token * scale_token
    scale = tl.load(scale_ptr + place, mask=there, other=0.0).to(tl.float32)
    values = tile(planes, extras, table_ptr, there, D, P, E).to(tl.float32) * scale
    line = (both * tokens + token) * D
    column = tl.arange(0, D)[None, :]
    kind = value_ptr.dtype.element_ty
    tl.store(value_ptr + line + column, values.to(kind), mask=there)
    if PAIRS > 0:
        still = tl.load(still_ptr + column) != 0
        tl.store(key_ptr + line + column, values.to(kind), mask=there & still)
        # [1, PAIRS], [BLOCK, PAIRS]
        pair = tl.arange(0, PAIRS)[None, :]
        turned = pair < pairs
        first = tl.load(first_ptr + pair, mask=turned, other=0).to(tl.int32)
        second = tl.load(second_ptr + pair, mask=turned, other=0).to(tl.int32)
        one, two = pairs_of(planes, extras, table_ptr, there, pair, D, P, E)
        one, two = one * scale, two * scale
        # [4, pairs] and [2, pairs] of this head.
        matrix = matrix_ptr + head * 4 * pairs + pair
        offset = offset_ptr + head * 2 * pairs + pair
        a = tl.load(matrix, mask=turned, other=0.0)
        b = tl.load(matrix + pairs, mask=turned, other=0.0)
        u1 = a * one + b * two + tl.load(offset, mask=turned, other=0.0)
        a = tl.load(matrix + 2 * pairs, mask=turned, other=0.0)
        b = tl.load(matrix + 3 * pairs, mask=turned, other=0.0)
        u2 = a * one + b * two + tl.load(offset + pairs, mask=turned, other=0.0)
        seen = there & turned
        angle = (batch * tokens + token) * pairs + pair
        cos = tl.load(cos_ptr + angle, mask=seen, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + angle, mask=seen, other=0.0).to(tl.float32)
        tl.store(key_ptr + line + first, (cos * u1 - sin * u2).to(kind), mask=seen)
        tl.store(key_ptr + line + second, (cos * u2 + sin * u1).to(kind), mask=seen)


def constants(head_dim: int, table: torch.Tensor, pairs: int, launch: RowsLaunch) -> dict[str, int]:
    """What the kernel is compiled for; widths in bits follow from a table of decoded bytes."""
    fields = table.shape[1]
    return {
        "D": head_dim,
        "P": 8 // fields,
        "E": (table.shape[0].bit_length() - 9) // fields,
        "PAIRS": triton.next_power_of_2(pairs) if pairs else 0,
        "BLOCK": launch.block_rows,
    }


def rebuild(
    rows: Rows, table: torch.Tensor, twist: Twist | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [B, H, N, D], in one launch; D is one of `launches.HEAD_DIMS`."""
    primary, extra, scale = rows
    assert scale is not None
    extra = primary if extra is None else extra
    batch, heads, tokens = scale.shape
    head_dim = primary.shape[-1] * table.shape[-1]
    shape = (batch, heads, tokens, head_dim)
    value = torch.empty(shape, dtype=dtype, device=primary.device)
    key = value if twist is None else torch.empty(shape, dtype=dtype, device=primary.device)
    if tokens == 0:
        return key, value
    places = [table] * 7 if twist is None else [field.contiguous() for field in twist]
    pairs = 0 if twist is None else len(twist.first)
    bits = (table.shape[0].bit_length() - 1) // table.shape[1]
    launch = launch_rows("rebuild", head_dim, bits, dispatch.capability_of(primary))
    rebuild_kernel[(triton.cdiv(tokens, launch.block_rows), batch * heads)](
        primary, extra, scale, table.to(torch.float16), *places, key, value, heads, tokens, pairs,
        *primary.stride()[:3], *extra.stride()[:3], *scale.stride(),
        **constants(head_dim, table, pairs, launch),
        num_warps=launch.num_warps,
        enable_fp_fusion=True,
    )  # fmt: skip
    return key, value
