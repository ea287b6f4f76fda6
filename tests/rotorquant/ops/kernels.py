"""What the kernel tests share: poisoned outputs, a count of launches, vectors without near ties."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import pytest
import torch

from rotorquant.codec.codebook import lloyd_max
from rotorquant.ops import dispatch
from rotorquant.ops.code_table import Codebook, make_codebook
from rotorquant.ops.planes import PACKED_BITS, planes_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# How a width is unpacked does not depend on the size of a head; large heads take the interpreter
# seconds, so it reads those of Gemma in widths with one plane and with two, the others in one
_INTERPRETED = {32: (5,), 128: (6,), 256: (8,), 512: (3, 4)}


def widths_and_heads(head_dims: Iterable[int]) -> list[tuple[int, int]]:
    """(bits, head size) that kernels are tried with: all on a GPU, enough in the interpreter."""
    return [
        (bits, head_dim)
        for head_dim in head_dims
        for bits in PACKED_BITS
        if DEVICE.type == "cuda" or bits in _INTERPRETED.get(head_dim, PACKED_BITS)
    ]


class Spy:
    """Stands for a kernel and counts its launches."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.launches = inner, 0

    def __getitem__(self, grid: Any) -> Any:
        self.launches += 1
        return self.inner[grid]


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """New tensors hold NaN, or 0xA5, until a kernel has written them."""
    make = torch.empty

    def poisoned(*shape: Any, **options: Any) -> torch.Tensor:
        tensor = make(*shape, **options)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 0xA5)

    monkeypatch.setattr(torch, "empty", poisoned)


def spied(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, Spy]:
    """Ops stand ready with kernels, whose launches are counted.

    Args:
        names: of op and kernel, such as "decode.merge_kernel".
    """
    spies = {}
    for op, _, name in (each.partition(".") for each in names):
        kernel = import_module(f"rotorquant.ops.{op}.kernel")
        spies[name] = Spy(getattr(kernel, name))
        monkeypatch.setattr(kernel, name, spies[name])
        # `ops/mix` is launched by `ops/encode`
        monkeypatch.setattr(f"rotorquant.ops.{op}._kernel", kernel, raising=False)
    return spies


def force_kernels(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, Spy]:
    """The same for tensors wherever they lie; outputs are poisoned."""
    spies = spied(monkeypatch, *names)
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: True)
    poison(monkeypatch)
    return spies


def centroids_of(bits: int) -> torch.Tensor:
    return torch.tensor(lloyd_max(bits), dtype=torch.float32, device=DEVICE)


def book_of(bits: int) -> Codebook:
    return make_codebook(lloyd_max(bits), DEVICE)


def rotors_of(head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.rand(head_dim // 2, device=DEVICE) * 6.28
    return angles.cos(), angles.sin()


def draw_rows(
    *shape: int, head_dim: int, bits: int
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Random planes and scales, every second row of larger buffers, as a cache has them."""
    planes = planes_of(bits)
    whole = (*shape[:-1], 2 * shape[-1] + 3)

    def draw(columns: int) -> torch.Tensor:
        drawn = torch.randint(256, (*whole, columns), dtype=torch.uint8, device=DEVICE)
        return drawn[..., : 2 * shape[-1] : 2, :]

    extra = draw(planes.extra_bytes(head_dim)) if planes.extra else None
    scale = torch.rand(whole, device=DEVICE)[..., : 2 * shape[-1] : 2].to(torch.float16) + 0.5
    return draw(planes.primary_bytes(head_dim)), extra, scale
