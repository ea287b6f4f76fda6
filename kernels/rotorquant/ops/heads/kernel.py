"""Head norms and rotary embedding on a GPU; the formulas are those of `reference.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rotorquant.ops.heads.reference import Stream

__all__ = ["heads_kernel", "norm_heads"]


@triton.jit
def _one_head(
    rows_ptr, weight_ptr, cos_ptr, sin_ptr, result_ptr, token, head, heads, row_token, row_head,
    angle, half, eps, TURNED: tl.constexpr, WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Norm and turn both halves [BLOCK] of one head of a token."""
    i = tl.arange(0, BLOCK)
    there = i < half
    kind = rows_ptr.dtype.element_ty
    source = rows_ptr + token * row_token + head * row_head + i
    # [BLOCK] each: the first and the second members of the pairs.
    one = tl.load(source, mask=there, other=0.0).to(tl.float32)
    two = tl.load(source + half, mask=there, other=0.0).to(tl.float32)
    scale = tl.rsqrt((tl.sum(one * one, 0) + tl.sum(two * two, 0)) / (2 * half) + eps)
    one, two = one * scale, two * scale
    if WEIGHT:
        one *= tl.load(weight_ptr + i, mask=there, other=0.0).to(tl.float32)
        two *= tl.load(weight_ptr + half + i, mask=there, other=0.0).to(tl.float32)
    one, two = one.to(kind), two.to(kind)
    if TURNED:
        n1, n2 = one.to(tl.float32), two.to(tl.float32)
        c1 = tl.load(cos_ptr + angle + i, mask=there, other=0.0).to(tl.float32)
        c2 = tl.load(cos_ptr + angle + half + i, mask=there, other=0.0).to(tl.float32)
        s1 = tl.load(sin_ptr + angle + i, mask=there, other=0.0).to(tl.float32)
        s2 = tl.load(sin_ptr + angle + half + i, mask=there, other=0.0).to(tl.float32)
        # Rounded product by product, as the model's own `apply_rotary_pos_emb` rounds.
        a, b = (n1 * c1).to(kind).to(tl.float32), (n2 * s1).to(kind).to(tl.float32)
        c, d = (n2 * c2).to(kind).to(tl.float32), (n1 * s2).to(kind).to(tl.float32)
        one, two = (a - b).to(kind), (c + d).to(kind)
    target = result_ptr + (token * heads + head) * 2 * half + i
    tl.store(target, one, mask=there)
    tl.store(target + half, two, mask=there)


@triton.jit(do_not_specialize=["tokens", "angle_batch"])
def heads_kernel(
    rows_a, rows_b, rows_c, weight_a, weight_b, weight_c, cos_ptr, sin_ptr,
    result_a, result_b, result_c,
    tokens, heads_a, heads_b, heads_c,
    token_a, token_b, token_c, head_a, head_b, head_c, angle_batch, half, eps,
    TURNED_A: tl.constexpr, TURNED_B: tl.constexpr, TURNED_C: tl.constexpr,
    WEIGHT_A: tl.constexpr, WEIGHT_B: tl.constexpr, WEIGHT_C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (B T, all heads). Rows [B T, heads, D]; angles [B or 1, T, D], results contiguous."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    angle = token // tokens * angle_batch + token % tokens * 2 * half
    if head < heads_a:
        _one_head(rows_a, weight_a, cos_ptr, sin_ptr, result_a, token, head, heads_a, token_a,
                  head_a, angle, half, eps, TURNED_A, WEIGHT_A, BLOCK)  # fmt: skip
    elif head < heads_a + heads_b:
        head -= heads_a
        _one_head(rows_b, weight_b, cos_ptr, sin_ptr, result_b, token, head, heads_b, token_b,
                  head_b, angle, half, eps, TURNED_B, WEIGHT_B, BLOCK)  # fmt: skip
    else:
        head -= heads_a + heads_b
        _one_head(rows_c, weight_c, cos_ptr, sin_ptr, result_c, token, head, heads_c, token_c,
                  head_c, angle, half, eps, TURNED_C, WEIGHT_C, BLOCK)  # fmt: skip


def norm_heads(
    streams: list[Stream], cos: torch.Tensor, sin: torch.Tensor, eps: float
) -> list[torch.Tensor]:
    """All streams in one launch, a program for a head of a token."""
    # Streams that are not there have no heads, and others stand for their pointers.
    rows = [stream.rows.flatten(0, 1) for stream in streams]
    rows = [each if each.stride(-1) == 1 else each.contiguous() for each in rows]
    results = [
        torch.empty(
            stream.rows.shape,
            dtype=torch.float32 if stream.wide else each.dtype,
            device=each.device,
        )
        for stream, each in zip(streams, rows, strict=True)
    ]
    spare = 3 - len(streams)
    given = [*streams, *[streams[0]] * spare]
    counts = [each.shape[1] for each in rows] + [0] * spare
    lines, targets = rows + rows[:1] * spare, results + results[:1] * spare
    weights = [stream.rows if stream.weight is None else stream.weight for stream in given]
    cos, sin = cos.contiguous(), sin.contiguous()
    half = cos.shape[-1] // 2
    block = triton.next_power_of_2(half)
    heads_kernel[(rows[0].shape[0], sum(counts))](
        *lines, *weights, cos, sin, *targets, cos.shape[1], *counts,
        *(each.stride(0) for each in lines), *(each.stride(1) for each in lines),
        0 if cos.shape[0] == 1 else cos.stride(0), half, eps,
        *(stream.turned for stream in given), *(stream.weight is not None for stream in given),
        BLOCK=block, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    return results
