"""What the blocks of GGUF files stand for, to the last bit of what ggml makes of them.

Format: github.com/ggml-org/ggml, ggml-quants.c. All of it is arithmetic in float32 on the device
that the bytes lie on: the `gguf` package does the same in numpy on one core, where the file of a
31B would take a quarter of an hour.
"""

from __future__ import annotations

import torch

from rqchat.engine.model_files.gguf.gguf_header import BLOCKS, GgufTensor
from rqchat.engine.weights.files import gguf_codebooks as codebooks
from rqchat.engine.weights.files.gguf_bits import fields, half, words
from rqchat.engine.weights.grid import INT4, Packed

__all__ = ["PLAIN", "pack_q4_0", "unpack"]

PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
"""Types that are no blocks."""
_NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# Of FP4 with two exponent bits and one of the mantissa, doubled
_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def unpack(raw: torch.Tensor, tensor: GgufTensor) -> torch.Tensor:
    """Values [n] from the bytes of some rows: in the stored type, float32 out of blocks."""
    if tensor.kind in PLAIN:
        return raw.view(PLAIN[tensor.kind])
    _, size = BLOCKS[tensor.kind]
    return _UNPACK[tensor.kind](raw.view(-1, size)).flatten()


def pack_q4_0(raw: torch.Tensor, shape: tuple[int, ...]) -> Packed:
    """Q4_0 blocks as they are, on the grid `INT4`: the same codes and scales in another order.

    A block holds a float16 scale and 16 bytes: values 0 to 15 in the low halves, 16 to 31 above.
    """
    blocks = raw.view(shape[0], -1, BLOCKS["Q4_0"][1])
    low, high = blocks[..., 2:] & 15, blocks[..., 2:] >> 4
    codes = torch.cat((low, high), dim=-1).flatten(-2)
    scale = blocks[..., :2].contiguous().view(torch.float16)
    return Packed.pack(INT4, codes, scale.squeeze(-1), None)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return half(blocks[:, :2]) * (fields(blocks[:, 2:], 4, 16).float() - 8)


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, the least value, 16 bytes."""
    return half(blocks[:, :2]) * fields(blocks[:, 4:], 4, 16).float() + half(blocks[:, 2:4])


def _q5_0(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, a word with the upper bits of 32 values, 16 bytes with their lower ones."""
    return half(blocks[:, :2]) * (_five_bits(blocks[:, 2:]) - 16)


def _q5_1(blocks: torch.Tensor) -> torch.Tensor:
    return half(blocks[:, :2]) * _five_bits(blocks[:, 4:]) + half(blocks[:, 2:4])


def _five_bits(rest: torch.Tensor) -> torch.Tensor:
    high = fields(rest[:, :4].unsqueeze(-1), 1, 1).flatten(1)
    return (fields(rest[:, 4:], 4, 16) | high << 4).float()


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    """A float16 scale and 32 signed bytes."""
    return blocks[:, 2:].view(torch.int8).float() * half(blocks[:, :2])


def _q2_k(blocks: torch.Tensor) -> torch.Tensor:
    """16 bytes of scales and minima of 16 values, 64 of codes, and what both are multiplied by."""
    scales = blocks[:, :16]
    scale = half(blocks[:, 80:82]) * (scales & 15).float()
    least = half(blocks[:, 82:84]) * (scales >> 4).float()
    codes = fields(blocks[:, 16:80], 2, 32).view(-1, 16, 16).float()
    return scale.unsqueeze(-1) * codes - least.unsqueeze(-1)


def _q3_k(blocks: torch.Tensor) -> torch.Tensor:
    """32 bytes of upper bits, 64 of lower pairs, 12 of 6-bit scales of 16 values, a scale."""
    low = fields(blocks[:, 96:104].unsqueeze(1), 4, 8).flatten(1)
    high = fields(blocks[:, 104:108].unsqueeze(1), 2, 4).flatten(1)
    scale = half(blocks[:, 108:]) * ((low | high << 4).float() - 32)
    codes = fields(blocks[:, 32:96], 2, 32).view(-1, 16, 16).float()
    # A bit that is set stands for nothing, and one that is not takes 4 away
    missing = 1 - fields(blocks[:, :32], 1, 32).view(-1, 16, 16).float()
    return scale.unsqueeze(-1) * (codes - 4 * missing)


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    """Two factors, 12 bytes of 6-bit scales and minima of 32 values, 128 bytes of codes."""
    scale, least = _scales_and_minima(blocks)
    codes = fields(blocks[:, 16:], 4, 32).view(-1, 8, 32).float()
    return scale * codes - least


def _q5_k(blocks: torch.Tensor) -> torch.Tensor:
    """The same with 32 bytes of upper bits before the codes."""
    scale, least = _scales_and_minima(blocks)
    codes = fields(blocks[:, 48:], 4, 32).view(-1, 8, 32)
    codes |= fields(blocks[:, 16:48], 1, 32).view(-1, 8, 32) << 4
    return scale * codes.float() - least


def _scales_and_minima(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, 8, 1] each: four have their six bits together, four theirs spread over the others'."""
    scale, least, rest = blocks[:, 4:16].reshape(-1, 3, 4).unbind(1)
    scales = torch.cat((scale & 63, rest & 15 | scale >> 2 & 48), dim=-1).float()
    minima = torch.cat((least & 63, rest >> 4 | least >> 2 & 48), dim=-1).float()
    scales, minima = half(blocks[:, :2]) * scales, half(blocks[:, 2:4]) * minima
    return scales.unsqueeze(-1), minima.unsqueeze(-1)


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    """128 bytes of low halves, 64 of upper pairs, 16 signed scales of 16 values, a float16 scale.

    Both halves of a block hold 128 values: low halves of two runs of 64, pairs of four runs of 32.
    """
    codes = fields(blocks[:, :128], 4, 64) | fields(blocks[:, 128:192], 2, 32) << 4
    scale = half(blocks[:, 208:]) * blocks[:, 192:208].view(torch.int8).float()
    return scale.unsqueeze(-1) * (codes.view(-1, 16, 16).float() - 32)


def _iq4_nl(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, and 16 bytes of places in a table of 16 values."""
    return half(blocks[:, :2]) * _looked_up(_NONLINEAR, fields(blocks[:, 2:], 4, 16))


def _iq4_xs(blocks: torch.Tensor) -> torch.Tensor:
    """A scale, 8 upper pairs and 8 lower halves of scales of 32 values, 128 bytes of places."""
    shifts = torch.arange(0, 16, 2, dtype=torch.int32, device=blocks.device)
    high = words(blocks[:, 2:4], 2) >> shifts & 3
    low = fields(blocks[:, 4:8].unsqueeze(-1), 4, 1).flatten(1)
    scale = half(blocks[:, :2]) * ((low | high << 4).float() - 32)
    places = fields(blocks[:, 8:], 4, 16).view(-1, 8, 32)
    return scale.unsqueeze(-1) * _looked_up(_NONLINEAR, places)


def _mxfp4(blocks: torch.Tensor) -> torch.Tensor:
    """An exponent, and 16 bytes of FP4 (OCP Microscaling Formats 1.0)."""
    exponent = blocks[:, :1].to(torch.int32)
    # Half of 2^(e - 127), whose two least are subnormal
    bits = torch.where(exponent < 2, 0x200000 << exponent, (exponent - 1) << 23)
    return bits.view(torch.float32) * _looked_up(_FP4, fields(blocks[:, 1:], 4, 16))


def _nvfp4(blocks: torch.Tensor) -> torch.Tensor:
    """Four scales of 16 values in unsigned FP8 (four exponent bits), and 32 bytes of FP4."""
    byte = blocks[:, :4].to(torch.int32)
    exponent, mantissa = byte >> 3 & 15, (byte & 7).float()
    normal = torch.ldexp(1 + mantissa / 8, exponent - 7)
    scale = torch.where(exponent == 0, mantissa * 2**-9, normal) * 0.5
    scale = scale.masked_fill((byte == 0) | (byte == 127), 0)
    codes = fields(blocks[:, 4:].reshape(-1, 4, 8), 4, 8)
    return scale.unsqueeze(-1) * _looked_up(_FP4, codes)


def _looked_up(table: tuple[int, ...], places: torch.Tensor) -> torch.Tensor:
    values = torch.tensor(table, dtype=torch.float32, device=places.device)
    return values[places.int()]


_UNPACK = {
    **{"Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0},
    **{"Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k},
    **{"IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs, "MXFP4": _mxfp4, "NVFP4": _nvfp4},
    **{"IQ2_XXS": codebooks.iq2_xxs, "IQ2_XS": codebooks.iq2_xs, "IQ2_S": codebooks.iq2_s},
    **{"IQ3_XXS": codebooks.iq3_xxs, "IQ3_S": codebooks.iq3_s},
    **{"IQ1_S": codebooks.iq1_s, "IQ1_M": codebooks.iq1_m},
    **{"TQ1_0": codebooks.tq1_0, "TQ2_0": codebooks.tq2_0},
}
