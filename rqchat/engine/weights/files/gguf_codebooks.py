"""GGUF blocks of three bits and fewer: places in a codebook of four or eight values, and signs.

The codebooks come from the `gguf` package.
"""

from __future__ import annotations

import torch

from rqchat.engine.weights.files.gguf_bits import fields, half, words

__all__ = [
    "iq1_m",
    "iq1_s",
    "iq2_s",
    "iq2_xs",
    "iq2_xxs",
    "iq3_s",
    "iq3_xxs",
    "tq1_0",
    "tq2_0",
]


def iq2_xxs(blocks: torch.Tensor) -> torch.Tensor:
    """A scale; for 32 values four places, four signs in 7 bits each and a 4-bit scale."""
    pairs = blocks[:, 2:].reshape(-1, 8, 8)
    rest = words(pairs[..., 4:], 4).squeeze(-1)
    scale = half(blocks[:, :2]) * (0.5 + (rest >> 28).float()) * 0.25
    values = _entries("IQ2_XXS", pairs[..., :4])
    return scale[..., None, None] * values * _signs(_seven_bits(rest))


def iq2_xs(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, 32 words of a place and signs for 8 values, 16 scales of 4 bits."""
    word = words(blocks[:, 2:66], 2)
    scale = _scales_of_16(blocks)
    values = _entries("IQ2_XS", word & 511).view(-1, 16, 2, 8)
    return scale[..., None, None] * values * _signs(_full(word >> 9)).view(values.shape)


def iq2_s(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, 32 places, 32 bytes of signs, the places' upper pairs, 16 scales of 4 bits."""
    places = (
        blocks[:, 2:34].int() | fields(blocks[:, 66:74].unsqueeze(-1), 2, 1).flatten(1).int() << 8
    )
    values = _entries("IQ2_S", places).view(-1, 16, 2, 8)
    scale = _scales_of_16(blocks)
    return scale[..., None, None] * values * _signs(blocks[:, 34:66]).view(values.shape)


def iq3_xxs(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, 64 places of 4 values, and for 32 values four signs and a 4-bit scale."""
    rest = words(blocks[:, 66:], 4)
    scale = half(blocks[:, :2]) * (0.5 + (rest >> 28).float()) * 0.5
    values = _entries("IQ3_XXS", blocks[:, 2:66]).view(-1, 8, 4, 8)
    return scale[..., None, None] * values * _signs(_seven_bits(rest))


def iq3_s(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, 64 places, their upper bits, 32 bytes of signs, 8 scales of 4 bits."""
    high = fields(blocks[:, 66:74].unsqueeze(-1), 1, 1).flatten(1)
    values = _entries("IQ3_S", blocks[:, 2:66].int() | high.int() << 8).view(-1, 8, 4, 8)
    scales = fields(blocks[:, 106:].unsqueeze(-1), 4, 1).flatten(1)
    scale = half(blocks[:, :2]) * (1 + 2 * scales.float())
    return scale[..., None, None] * values * _signs(blocks[:, 74:106]).view(values.shape)


def iq1_s(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, 32 places, and for 32 values their upper bits, a scale and the sign of a shift."""
    word = words(blocks[:, 34:], 2)
    scale = half(blocks[:, :2]) * (2 * (word >> 12 & 7) + 1).float()
    shifts = torch.arange(0, 12, 3, dtype=torch.int32, device=word.device)
    high = (word.unsqueeze(-1) >> shifts & 7).flatten(1)
    values = _entries("IQ1_S", blocks[:, 2:34].int() | high << 8).view(-1, 8, 4, 8)
    shift = torch.where(word & 0x8000 == 0, 0.125, -0.125)
    return scale[..., None, None] * (values + shift[..., None, None])


def iq1_m(blocks: torch.Tensor) -> torch.Tensor:
    """32 places, their upper bits with the sign of a shift, scales of 16 values, and in the upper
    bits of those the scale of all.
    """
    word = words(blocks[:, 48:], 2)
    upper = torch.tensor([12, 8, 4, 0], dtype=torch.int32, device=word.device)
    bits = ((word & 0xF000) >> upper).sum(-1, keepdim=True).to(torch.int16)
    shifts = torch.arange(0, 12, 3, dtype=torch.int32, device=word.device)
    scales = (word.unsqueeze(-1) >> shifts & 7).flatten(1)
    scale = bits.view(torch.float16).float() * (2 * scales + 1).float()
    high = fields(blocks[:, 32:48].unsqueeze(-1), 4, 1).flatten(1).int()
    values = _entries("IQ1_M", blocks[:, :32].int() | (high & 7) << 8).view(-1, 16, 2, 8)
    shift = torch.where(high & 8 == 0, 0.125, -0.125).view(-1, 16, 2, 1)
    return scale[..., None, None] * (values + shift)


def tq1_0(blocks: torch.Tensor) -> torch.Tensor:
    """Five digits to the base 3 in a byte, and a scale at the end."""
    powers = torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8, device=blocks.device)
    parts = (blocks[:, :32], 5), (blocks[:, 32:48], 5), (blocks[:, 48:52], 4)
    # A product of bytes drops the digits before the one that is asked for
    digits = [part.unsqueeze(1) * powers[:count].unsqueeze(-1) for part, count in parts]
    codes = torch.cat([digit.flatten(1) for digit in digits], dim=-1).int() * 3 >> 8
    return half(blocks[:, 52:]) * (codes.float() - 1)


def tq2_0(blocks: torch.Tensor) -> torch.Tensor:
    """64 bytes of four values each, and a scale at the end."""
    return half(blocks[:, 64:]) * (fields(blocks[:, :64], 2, 32).float() - 1)


def _scales_of_16(blocks: torch.Tensor) -> torch.Tensor:
    """Those of 16 values, [n, 16], whose 4 bits stand in a block's last 8 bytes."""
    scales = fields(blocks[:, -8:].unsqueeze(-1), 4, 1).flatten(1)
    return half(blocks[:, :2]) * (0.5 + scales.float()) * 0.25


def _entries(kind: str, places: torch.Tensor) -> torch.Tensor:
    """The values [..., 4 or 8] float32 at some places of a codebook."""
    # Seldom needed, and half of what the package takes to load is what it loads
    from gguf import quants

    book = getattr(quants, kind)
    book.init_grid()
    table = torch.from_numpy(book.grid).reshape(book.grid_shape).to(places.device)
    return table[places.int()]


def _seven_bits(word: torch.Tensor) -> torch.Tensor:
    """Four signs in 7 bits each of words [...]: [..., 4], each with its eighth sign."""
    shifts = torch.arange(0, 28, 7, dtype=torch.int64, device=word.device)
    return _full(word.unsqueeze(-1) >> shifts & 127)


def _full(seven: torch.Tensor) -> torch.Tensor:
    """The byte whose parity is even and whose lower bits are `seven`."""
    parity = seven ^ seven >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    return seven | (parity & 1) << 7


def _signs(data: torch.Tensor) -> torch.Tensor:
    """Factors 1 and -1 [..., 8] for bits of bytes [...] that are 0 and 1."""
    bits = fields(data.to(torch.uint8).unsqueeze(-1), 1, 1)
    return 1 - 2 * bits.float()
