"""What ops and kernels ask of the device, and where an op has a kernel for it."""

from __future__ import annotations

import contextlib
from importlib import import_module
from types import ModuleType

import torch

__all__ = [
    "capability_of",
    "find_kernel",
    "float32_products",
    "on_gpu",
    "processors_of",
    "registers",
]

_INTERPRETED_PROCESSORS = 2
_REGISTERS = 65_536  # of a block, on every card


def find_kernel(op: str) -> ModuleType | None:
    """The module `kernel` of an op's package such as "rotorquant.ops.append".

    None where torch was built for the CPU alone, or Triton is not installed.
    """
    if torch.backends.cuda.is_built():  # ROCm says so, too; most such builds bring Triton
        with contextlib.suppress(ImportError):
            return import_module(f"{op}.kernel")
    return None


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies where Triton can launch: CUDA, or ROCm, which calls itself CUDA."""
    return tensor.is_cuda


def capability_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Compute capability of the card; (0, 0) off one, where the interpreter runs."""
    return torch.cuda.get_device_capability(tensor.device) if tensor.is_cuda else (0, 0)


def processors_of(tensor: torch.Tensor) -> int:
    """Multiprocessors of the card; off one, as many as make the interpreter split its work."""
    if not tensor.is_cuda:
        return _INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(tensor.device).multi_processor_count)


def float32_products(tensor: torch.Tensor) -> str:
    """How Triton multiplies float32 matrices there: by three products of tf32 where it has them."""
    return "tf32x3" if capability_of(tensor) >= (8, 0) and not torch.version.hip else "ieee"


def registers(num_warps: int) -> dict[str, int]:
    """Launch option for all registers that a thread can have; CUDA's alone.

    Without it the assembler spills a few where one program more then fits on a processor.
    """
    return {} if torch.version.hip else {"maxnreg": min(255, _REGISTERS // (32 * num_warps))}
