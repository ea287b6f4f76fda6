"""A product with a packed matrix: a kernel for few rows on a GPU, else through the dense matrix."""

from __future__ import annotations

import contextlib
from types import ModuleType

import torch
from torch.nn import functional

from rqchat.engine.weights.grid import Packed
from rqchat.engine.weights.launch import DOT_ROWS, GEMV_ROWS

__all__ = ["multiply"]

_kernel: ModuleType | None = None
if torch.backends.cuda.is_built():  # ROCm says so, too; most such builds bring Triton
    with contextlib.suppress(ImportError):
        from rqchat.engine.weights import kernel as _kernel

# Gemma 4 31B's largest linear has 115.6 M values, which the plan counts as scratch; the head of a
# whole prompt's logits is taken in parts
_SCRATCH_VALUES = 120_000_000


def multiply(x: torch.Tensor, weight: Packed) -> torch.Tensor:
    """x [..., columns] times the transposed matrix: [..., rows of the matrix] in x's dtype."""
    flat = x.reshape(-1, x.shape[-1])
    kernel = _kernel if on_gpu(x) else None
    if kernel is not None and 0 < flat.shape[0] <= DOT_ROWS:
        product = kernel.gemv if flat.shape[0] <= GEMV_ROWS else kernel.dot
        out: torch.Tensor = product(flat, weight)
    else:
        out = _through_dense(flat, weight, kernel)
    return out.view(*x.shape[:-1], out.shape[-1])


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies where Triton can launch: CUDA, or ROCm, which calls itself CUDA."""
    return tensor.is_cuda


def _through_dense(flat: torch.Tensor, weight: Packed, kernel: ModuleType | None) -> torch.Tensor:
    """By the matrix in x's dtype, some rows of it at a time."""
    rows = max(1, _SCRATCH_VALUES // weight.columns)
    outs = []
    for begin in range(0, weight.words.shape[0], rows):
        part = weight.rows(slice(begin, begin + rows))
        dense = kernel.dequantize(part, flat.dtype) if kernel else part.dequantize(flat.dtype)
        outs.append(functional.linear(flat, dense))
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)
