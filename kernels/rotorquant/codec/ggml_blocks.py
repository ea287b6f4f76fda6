"""Blocks of 32 values under one float16 step, as llama.cpp's q8_0 and q4_0 have them.

    q8_0   x = step * code,        code in -127 to 127,   step = max|x| / 127            8.5 bits
    q4_0   x = step * (code - 8),  code in 0 to 15,       step = -(x of largest |x|) / 8   4.5 bits

No rotation. They are here to be compared with.
"""

from __future__ import annotations

import torch

from rotorquant.ops.attend import Rows
from rotorquant.ops.dequantize import unpack_codes
from rotorquant.ops.quantize import pack_codes, put

__all__ = ["BLOCK", "BlockCodec"]

BLOCK = 32


class BlockCodec:
    """A `Codec` whose rows have to be decoded to be scored; scales are [B, H, N, D / 32].

    Args:
        bits: 8 or 4.
        head_dim: D, a multiple of 32.
        device: where vectors lie.
    """

    def __init__(self, bits: int, head_dim: int, device: torch.device) -> None:
        self._bits = bits
        self.table: torch.Tensor | None = None
        self.place = torch.arange(head_dim, device=device)
        self.pairs: int | None = None
        self.offset: torch.Tensor | None = None

    def encode(self, vectors: torch.Tensor, into: Rows | None = None) -> Rows:
        """Rows of vectors [B, H, N, D], in the tensors `into` if there are any."""
        blocks = vectors.float().unflatten(-1, (-1, BLOCK))
        # With its sign: in q4_0 the largest member becomes code 0, the -8 of the codes -8 to 7.
        largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
        step = largest.abs() / 127 if self._bits == 8 else largest / -8
        # Codes come from the float32 step and are decoded by the float16 one, as in llama.cpp.
        inverse = torch.where(step == 0, 0.0, 1 / step)
        scale = step.squeeze(-1).to(torch.float16)
        if self._bits == 8:
            whole = (blocks * inverse).round().to(torch.int8).flatten(-2)
            return Rows(*put((whole, None, scale), into))
        codes = (blocks * inverse + 8.5).floor().clamp(0, 15).to(torch.uint8)
        return Rows(*put((pack_codes(codes.flatten(-2), 4)[0], None, scale), into))

    def decode(self, rows: Rows) -> torch.Tensor:
        """Vectors [B, H, N, D] float32 of rows."""
        assert rows.scale is not None
        if self._bits == 8:
            codes = rows.primary.float()
        else:
            codes = unpack_codes(rows.primary, None, 4).float() - 8
        blocks = codes.unflatten(-1, (-1, BLOCK))
        return torch.mul(blocks, rows.scale.float().unsqueeze(-1)).flatten(-2)

    def to_stored(self, queries: torch.Tensor) -> torch.Tensor:
        """The queries as they are, because rows are decoded before they are scored."""
        return queries

    def from_stored(self, sums: torch.Tensor) -> torch.Tensor:
        """The sums as they are, because they are sums of decoded vectors."""
        return sums
