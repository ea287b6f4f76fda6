"""Rows of a decode step on a GPU; the rules are those of `reference.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from rotorquant.ops.strides import dense

__all__ = ["append", "append_kernel", "append_scaled", "scaled_kernel"]

_WARPS = 8


@triton.jit
def _not_finite(x):
    """Zeros, and NaN where `x` is not finite; the comparison is false for NaN as well."""
    return tl.where(tl.abs(x.to(tl.float32)) < float("inf"), 0.0, float("nan"))


@triton.jit
def append_kernel(
    buffer_a, buffer_b, rows_a, rows_b, into_a, into_b, from_a, from_b, count_ptr, total_ptr,
    steps, tokens, slots, heads, values_a, values_b,
    SECOND: tl.constexpr, BOTH: tl.constexpr, LOOK: tl.constexpr,
    HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Buffers [B, H, slots, values] and rows [B, H, T, values], with their first three strides.

    SECOND: there are two kinds of rows, of which BOTH are stored. LOOK: NaN is added to `total`
    where a value is not finite. One program, so that the count changes when every row has found
    its place, and so that it may add.
    """
    before = tl.load(count_ptr)
    # [HEADS, 1], [1, WIDTH]
    head, i = tl.arange(0, HEADS)[:, None].to(tl.int64), tl.arange(0, WIDTH)[None, :]
    nothing = tl.zeros((HEADS, WIDTH), tl.float32)
    for step in range(steps):
        b, t = (step // tokens).to(tl.int64), step % tokens
        slot = (before + t) % slots
        there = (head < heads) & (i < values_a)
        at = rows_a + b * from_a[0] + head * from_a[1] + t * from_a[2] + i
        new = tl.load(at, mask=there, other=0)
        tl.store(
            buffer_a + b * into_a[0] + head * into_a[1] + slot * into_a[2] + i, new, mask=there
        )
        if LOOK:
            nothing += _not_finite(new)
        if SECOND:
            there = (head < heads) & (i < values_b)
            at = rows_b + b * from_b[0] + head * from_b[1] + t * from_b[2] + i
            new = tl.load(at, mask=there, other=0)
            if BOTH:
                place = buffer_b + b * into_b[0] + head * into_b[1] + slot * into_b[2] + i
                tl.store(place, new, mask=there)
            if LOOK:
                nothing += _not_finite(new)
    if LOOK:
        tl.store(total_ptr, tl.load(total_ptr) + tl.sum(tl.sum(nothing, 1), 0))
    # Every warp has to have read the count before it changes.
    tl.debug_barrier()
    tl.store(count_ptr, before + tokens)


@triton.jit
def _put_scaled(rows, codes, scales, head_there, there):
    """Codes and scales [HEADS] of rows [HEADS, WIDTH], which are returned as float32.

    A sum with 3 * 2**22 rounds half to even.
    """
    x = tl.load(rows, mask=there, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.max(tl.abs(x), 1), 127.0).to(tl.float16)
    # The smallest normal float16, `reference.SMALLEST_STEP`; a kernel reads no Python globals.
    step = tl.maximum(scale.to(tl.float32), 6.103515625e-05)[:, None]
    near = (tl.div_rn(x, tl.broadcast_to(step, x.shape)) + 12582912.0) - 12582912.0
    near = tl.minimum(tl.maximum(near, -127.0), 127.0)
    tl.store(codes, near.to(tl.int8), mask=there)
    tl.store(scales, scale, mask=head_there)
    return x


@triton.jit
def scaled_kernel(
    buffers, rows_a, rows_b, into_codes, into_scales, from_a, from_b, count_ptr, total_ptr,
    steps, tokens, slots, heads, values,
    LOOK: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`append_kernel` in 8 bits; buffers: codes of K and V, then scales, with equal strides."""
    before = tl.load(count_ptr)
    # [HEADS], [1, WIDTH]
    head, i = tl.arange(0, HEADS).to(tl.int64), tl.arange(0, WIDTH)[None, :]
    there = (head < heads)[:, None] & (i < values)
    nothing = tl.zeros((HEADS, WIDTH), tl.float32)
    for step in range(steps):
        b, t = (step // tokens).to(tl.int64), step % tokens
        slot = (before + t) % slots
        codes = (b * into_codes[0] + head * into_codes[1] + slot * into_codes[2])[:, None] + i
        scales = b * into_scales[0] + head * into_scales[1] + slot * into_scales[2]
        at = rows_a + (b * from_a[0] + head * from_a[1] + t * from_a[2])[:, None] + i
        one = _put_scaled(at, buffers[0] + codes, buffers[2] + scales, head < heads, there)
        at = rows_b + (b * from_b[0] + head * from_b[1] + t * from_b[2])[:, None] + i
        two = _put_scaled(at, buffers[1] + codes, buffers[3] + scales, head < heads, there)
        if LOOK:
            nothing += _not_finite(one) + _not_finite(two)
    if LOOK:
        tl.store(total_ptr, tl.load(total_ptr) + tl.sum(tl.sum(nothing, 1), 0))
    # As in `append_kernel`.
    tl.debug_barrier()
    tl.store(count_ptr, before + tokens)


def append(
    buffers: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    count: torch.Tensor,
    total: torch.Tensor | None,
) -> None:
    """Store one or two streams of rows, whose values lie side by side, and count their tokens.

    Rows beyond the buffers are looked at alone. `total` [] is where NaN is noted, or None.
    """
    given = [each if each.ndim == 3 else dense(each) for each in rows]
    (batch, heads, tokens), values = given[0].shape[:3], [_values(each) for each in given]
    append_kernel[(1,)](
        buffers[0], buffers[-1], given[0], given[-1],
        *(each.stride()[:3] for each in (buffers[0], buffers[-1], given[0], given[-1])), count,
        count if total is None else total,
        batch * tokens, tokens, buffers[0].shape[2], heads, values[0], values[-1],
        SECOND=len(given) == 2, BOTH=len(buffers) == 2, LOOK=total is not None,
        **_block(heads, max(values)),
    )  # fmt: skip


def append_scaled(
    buffers: Sequence[torch.Tensor],
    rows: Sequence[torch.Tensor],
    count: torch.Tensor,
    total: torch.Tensor | None,
) -> None:
    """Store K and V as int8 codes and their scales, and count their tokens; total as above."""
    key, value = (dense(each) for each in rows)
    batch, heads, tokens, values = key.shape
    if any(buffers[i].stride() != buffers[i + 1].stride() for i in (0, 2)):
        raise ValueError("codes of keys and values must lie alike, and so must their scales")
    scaled_kernel[(1,)](
        tuple(buffers), key, value, buffers[0].stride()[:3], buffers[2].stride(),
        key.stride()[:3], value.stride()[:3], count, count if total is None else total,
        batch * tokens, tokens, buffers[0].shape[2], heads, values,
        LOOK=total is not None, **_block(heads, values),
    )  # fmt: skip


def _values(rows: torch.Tensor) -> int:
    return int(rows.shape[3]) if rows.ndim == 4 else 1


def _block(heads: int, values: int) -> dict[str, int]:
    width = triton.next_power_of_2(values)
    heads = triton.next_power_of_2(heads)
    return {"HEADS": heads, "WIDTH": width, "num_warps": _WARPS, "enable_fp_fusion": False}
