"""What the blocks of GGUF files stand for (format: github.com/ggml-org/ggml, ggml-quants.c)."""

from __future__ import annotations

import torch

from rqchat.engine.model_files.gguf_header import BLOCKS
from rqchat.engine.weights.grid import INT4, Packed

__all__ = ["PLAIN", "pack_q4_0", "unpack"]

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types that are no blocks."""


def unpack(raw: torch.Tensor, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Values of `shape` from bytes [n]: in the stored type, or bfloat16 out of quantized blocks."""
    if kind in PLAIN:
        return raw.view(PLAIN[kind]).view(shape)
    _, size = BLOCKS[kind]
    return _UNPACK[kind](raw.view(-1, size)).bfloat16().view(shape)


def pack_q4_0(raw: torch.Tensor, shape: tuple[int, ...]) -> Packed:
    """Q4_0 blocks as they are, on the grid `INT4`: the same codes and scales in another order.

    A block holds a float16 scale and 16 bytes: values 0 to 15 in the low halves, 16 to 31 above.
    """
    blocks = raw.view(shape[0], -1, BLOCKS["Q4_0"][1])
    low, high = blocks[..., 2:] & 15, blocks[..., 2:] >> 4
    codes = torch.cat((low, high), dim=-1).flatten(-2)
    return Packed.pack(INT4, codes, _half(blocks[..., :2]).squeeze(-1), None)


def _half(pairs: torch.Tensor) -> torch.Tensor:
    """[..., 2 n] bytes as [..., n] float16."""
    return pairs.contiguous().view(torch.float16)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    codes = torch.cat((blocks[:, 2:] & 15, blocks[:, 2:] >> 4), dim=-1)
    return (codes.float() - 8) * _half(blocks[:, :2]).float()


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    """A float16 scale and 32 signed bytes."""
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks[:, :2]).float()


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    """128 bytes of low halves, 64 of upper pairs, 16 signed scales of 16 values, a float16 scale.

    Both halves of a block hold 128 values: low halves of two runs of 64, pairs of four runs of 32.
    """
    low, high = blocks[:, :128].view(-1, 2, 64), blocks[:, 128:192].view(-1, 2, 32)
    low = torch.cat((low & 15, low >> 4), dim=-1)
    high = torch.cat([(high >> shift) & 3 for shift in (0, 2, 4, 6)], dim=-1)
    codes = (low | (high << 4)).flatten(1).float() - 32
    scale = blocks[:, 192:208].view(torch.int8).float() * _half(blocks[:, 208:]).float()
    return codes * scale.repeat_interleave(16, dim=-1)


_UNPACK = {"Q4_0": _q4_0, "Q8_0": _q8_0, "Q6_K": _q6_k}
