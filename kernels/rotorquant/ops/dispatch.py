"""What ops and kernels ask of the device, and where an op has a kernel for it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import ParamSpec, TypeVar

import torch

__all__ = [
    "capability_of",
    "current_device",
    "find_kernel",
    "float32_products",
    "has_shared",
    "on_gpu",
    "on_one_device",
    "processors_of",
    "registers",
    "shared_bytes_of",
]

_INTERPRETED_PROCESSORS = 2
_REGISTERS = 65_536  # of a block, on every card
_LEAST_SHARED_BYTES = 48 * 1024  # what every card gives without being asked

Given = ParamSpec("Given")
Result = TypeVar("Result")


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


def has_shared(tensor: torch.Tensor, shared_bytes: int) -> bool:
    """Whether a program may have so much shared memory on the tensor's card; off cards it may."""
    return not tensor.is_cuda or shared_bytes <= shared_bytes_of(tensor.device)


@functools.cache
def shared_bytes_of(device: torch.device) -> int:
    """Bytes of shared memory that one program may have on a card."""
    card: object = torch.cuda.get_device_properties(device)
    # ROCm has no larger limit to opt in to, and no such field
    usual: int = getattr(card, "shared_memory_per_block", _LEAST_SHARED_BYTES)
    return int(getattr(card, "shared_memory_per_block_optin", usual))


def current_device(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a card the current one, for this thread; nothing for other devices.

    Triton launches on the current card, wherever its arguments lie.
    """
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def on_one_device(op: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let an op run on the device of its tensors, which has to be the same for all of them.

    So one of them says whether a kernel takes all, and the kernel is launched where they lie.

    Raises:
        ValueError: by the op, if its tensors lie on several devices.
    """

    @functools.wraps(op)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        found: set[torch.device] = set()
        _add_devices((*args, *kwargs.values()), found)
        if len(found) != 1:
            raise ValueError(
                f"{op.__name__} was given tensors on {' and '.join(sorted(map(str, found)))}; move "
                "them to one device"
            )
        device = found.pop()
        if device.type == "cpu":
            return op(*args, **kwargs)
        with current_device(device):
            return op(*args, **kwargs)

    return checked


def _add_devices(values: Iterable[object], found: set[torch.device]) -> None:
    """Add where the tensors lie, also those in tuples, lists and dataclasses."""
    for value in values:
        if isinstance(value, torch.Tensor):
            found.add(value.device)
        elif isinstance(value, (tuple, list)):
            _add_devices(value, found)
        elif (names := getattr(value, "__dataclass_fields__", None)) is not None:
            _add_devices([getattr(value, name) for name in names], found)


def capability_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Compute capability of the card; (0, 0) off one, where the interpreter runs.

    AMD's are below zero: gfx942 is 9.4 to torch, and no Hopper.
    """
    if not tensor.is_cuda:
        return 0, 0
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return (-major if torch.version.hip else major), minor


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
