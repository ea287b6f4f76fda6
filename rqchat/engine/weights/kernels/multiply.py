"""A product with a packed matrix: a kernel for few rows on a GPU, else through the dense matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import ModuleType

import torch

from rotorquant.one_device import has_shared, on_one_device
from rqchat.engine.weights.cpu_linear4 import CpuLinear4
from rqchat.engine.weights.cpu_matrix import CpuInt4, CpuInt4Experts, CpuInt8, CpuLinear8
from rqchat.engine.weights.grid import Packed, part_values, row_parts
from rqchat.engine.weights.kernels.launch import DOT_ROWS, GEMV_ROWS, GEMV_SLOTS

__all__ = ["has_kernel", "multiply", "multiply_experts", "multiply_gated", "multiply_joined"]

_kernel: ModuleType | None = None
_expert_kernel: ModuleType | None = None
if torch.backends.cuda.is_built():  # ROCm says so, too; most such builds bring Triton
    with contextlib.suppress(ImportError):
        from rqchat.engine.weights.kernels import experts as _expert_kernel
        from rqchat.engine.weights.kernels import linear as _kernel

# Half of Gemma 4 31B's largest linear: whole, it would be the largest tensor of a chunk. The plan
# counts it (`planning/workspace.py`)
_TILES_SHARED_BYTES = 71 * 1024
_SCRATCH_VALUES = 57_802_752


@on_one_device
def multiply(
    x: torch.Tensor, weight: Packed | CpuInt4 | CpuInt8 | CpuLinear4 | CpuLinear8
) -> torch.Tensor:
    """x [..., columns] times the transposed matrix: [..., rows of the matrix] in x's dtype."""
    flat = x.reshape(-1, x.shape[-1])
    if not isinstance(weight, Packed):
        return weight.product(flat).view(*x.shape[:-1], -1)
    kernel = _kernel if on_gpu(x) else None
    tiles = DOT_ROWS if kernel is not None and _has_room(x) else GEMV_ROWS
    if kernel is not None and 0 < flat.shape[0] <= tiles:
        product = kernel.gemv if flat.shape[0] <= GEMV_ROWS else kernel.dot
        out: torch.Tensor = product(flat, weight)
    else:
        out = _through_dense(flat, weight, kernel)
    return out.view(*x.shape[:-1], out.shape[-1])


@on_one_device
def multiply_experts(
    x: torch.Tensor, weight: Packed | CpuInt4Experts | CpuInt8, experts: int, chosen: torch.Tensor
) -> torch.Tensor:
    """x [rows, columns] by the matrix of each row's experts: [slots, outputs] in x's dtype.

    Args:
        x: slot s belongs to its row s // (slots / rows).
        weight: the experts' matrices, one below the other.
        experts: how many they are.
        chosen: the expert of each slot, [slots] integers.
    """
    if isinstance(weight, Packed) and _expert_kernel and on_gpu(x) and chosen.numel():
        # Where tiles do not fit, every expert of every row is multiplied on its own
        few = chosen.numel() <= GEMV_SLOTS or not _has_room(x)
        product = _expert_kernel.expert_gemv if few else _expert_kernel.expert_dot
        found: torch.Tensor = product(x, weight, experts, chosen)
        return found
    outputs = weight.shape[0] // experts
    out = torch.empty(chosen.numel(), outputs, dtype=x.dtype, device=x.device)
    for expert in chosen.unique().tolist():
        slots = (chosen == expert).nonzero().squeeze(-1)
        part = weight.rows(slice(expert * outputs, (expert + 1) * outputs))
        out[slots] = multiply(x[slots * x.shape[0] // chosen.numel()], part)
    return out


def has_kernel() -> bool:
    """Whether there is a Triton that could run the kernels."""
    return _kernel is not None


@on_one_device
def multiply_joined(x: torch.Tensor, weights: Sequence[Packed]) -> list[torch.Tensor]:
    """Products of a few rows x [..., columns], in field order, with up to three matrices."""
    assert _kernel is not None
    parts = _kernel.gemv_joined(x.reshape(-1, x.shape[-1]), weights, ordered=True)
    return [part.unflatten(0, x.shape[:-1]) for part in parts]


@on_one_device
def multiply_gated(x: torch.Tensor, gate: Packed, up: Packed, fields: int) -> torch.Tensor:
    """gelu(x gate) * (x up) of a few rows in field order, in the order of `fields`."""
    assert _kernel is not None
    out: torch.Tensor = _kernel.gemv_gated(x.reshape(-1, x.shape[-1]), gate, up, fields)
    return out.unflatten(0, x.shape[:-1])


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies where Triton can launch: CUDA, or ROCm, which calls itself CUDA."""
    return tensor.is_cuda


def _has_room(tensor: torch.Tensor) -> bool:
    """Whether the card has the shared memory that tiles ask for (`tests/compile/proofs.txt`)."""
    return has_shared(tensor, _TILES_SHARED_BYTES)


def _through_dense(flat: torch.Tensor, weight: Packed, kernel: ModuleType | None) -> torch.Tensor:
    """The product through the matrix in x's dtype, some rows of it at a time."""
    most = _SCRATCH_VALUES if kernel else part_values(flat.device)
    out = flat.new_empty(flat.shape[0], weight.shape[0])
    for part in row_parts(*weight.shape, most):
        own = slice(part.start, part.stop)
        some = weight.rows(own)
        dense = kernel.dequantize(some, flat.dtype) if kernel else some.dequantize(flat.dtype)
        torch.mm(flat, dense.mT, out=out[:, own])
        del dense  # the next part needs its memory
    return out
