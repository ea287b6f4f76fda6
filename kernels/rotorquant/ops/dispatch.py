"""Where the kernels run: the one question that every op asks before it takes one."""

from __future__ import annotations

import torch

__all__ = ["on_gpu"]


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies where Triton can launch: CUDA, or ROCm, which calls itself CUDA."""
    return tensor.is_cuda
