"""Bits out of the bytes of GGUF blocks."""

from __future__ import annotations

import torch

__all__ = ["fields", "half", "words"]


def half(pairs: torch.Tensor) -> torch.Tensor:
    """[..., 2 n] bytes as [..., n] float16, in float32."""
    return pairs.contiguous().view(torch.float16).float()


def words(data: torch.Tensor, size: int) -> torch.Tensor:
    """[..., n * size] bytes as [..., n] words of 2 bytes in int32, or of 4 in int64."""
    wide = torch.int32 if size == 2 else torch.int64
    parts = data.unflatten(-1, (-1, size)).to(wide)
    word: torch.Tensor = parts[..., 0].clone()
    for place in range(1, size):
        word |= parts[..., place] << 8 * place
    return word


def fields(data: torch.Tensor, bits: int, run: int) -> torch.Tensor:
    """Codes of so many bits [..., n * 8 / bits] uint8 from bytes [..., n].

    Of each `run` bytes the lowest bits come first, then the next ones.
    """
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=data.device).unsqueeze(-1)
    runs = data.unflatten(-1, (-1, run)).unsqueeze(-2)
    found: torch.Tensor = runs >> shifts & (1 << bits) - 1
    return found.flatten(-3)
