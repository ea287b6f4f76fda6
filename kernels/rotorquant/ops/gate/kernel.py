"""The gate of an MLP on a GPU; the formula is that of `reference.py`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["gate_kernel", "gelu_gate"]

_BLOCK = 1024


@triton.jit(do_not_specialize=["count"])
def gate_kernel(gate_ptr, up_ptr, product_ptr, count, BLOCK: tl.constexpr):
    """The gate of `count` contiguous values."""
    # [BLOCK]
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < count
    kind = gate_ptr.dtype.element_ty
    x = tl.load(gate_ptr + place, mask=there, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=there, other=0.0).to(tl.float32)
    # -2 sqrt(2 / pi) = -1.5957691216057308; behind 80 the quotient is nothing and exp overflows.
    falls = tl.minimum(-1.5957691216057308 * (x + 0.044715 * x * x * x), 80.0)
    x = x / (1.0 + tl.exp(falls))
    tl.store(product_ptr + place, (x.to(kind).to(tl.float32) * up).to(kind), mask=there)


def gelu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gelu(gate) * up of tensors of one shape and dtype, in one launch."""
    gate, up = gate.contiguous(), up.contiguous()
    product = torch.empty_like(gate)
    count = gate.numel()
    gate_kernel[(triton.cdiv(count, _BLOCK),)](
        gate, up, product, count, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=True
    )
    return product
