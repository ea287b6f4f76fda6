"""Unpack head vectors: table lookup from bytes to values, and the codes themselves."""

from __future__ import annotations

import torch

from rotorquant.ops import dispatch
from rotorquant.ops.dequantize import reference
from rotorquant.ops.launches import HEAD_DIMS
from rotorquant.ops.planes import planes_of
from rotorquant.ops.rotors import Rotors, turn_back

__all__ = ["decode_table", "dequantize", "lookup", "unpack_codes"]

_kernel = dispatch.find_kernel(__name__)


def decode_table(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Table [2**(8 + group bits), fields] of what a primary byte with its group stands for.

    Args:
        values: [2**bits], the value of each code, of any dtype.
        bits: 2, 3, 4, 5, 6 or 8.
    """
    return reference.decode_table(values, bits)


def lookup(primary: torch.Tensor, extra: torch.Tensor | None, table: torch.Tensor) -> torch.Tensor:
    """Unscaled values [..., D] in storage order (`ops.planes`), in the table's dtype.

    Args:
        primary: [..., D / fields] uint8.
        extra: [..., D * extra / 8] uint8, or None where the width has no extra plane.
        table: from `decode_table`.
    """
    fields = table.shape[-1]
    # A table has 2**(8 + group bits) rows.
    group_bits = table.shape[0].bit_length() - 9
    if (extra is None) != (group_bits == 0):
        raise ValueError("the extra plane must be given exactly where the table reads one")
    if extra is not None and extra.shape[-1] * 8 != primary.shape[-1] * group_bits:
        raise ValueError(f"{extra.shape[-1]} extra bytes do not fit {primary.shape[-1]} primary")
    return reference.lookup(primary, extra, table, fields, group_bits)


@dispatch.on_one_device
def dequantize(
    primary: torch.Tensor,
    extra: torch.Tensor | None,
    scale: torch.Tensor,
    centroids: torch.Tensor,
    bits: int,
    rotors: Rotors | None = None,
) -> torch.Tensor:
    """Vectors [..., D] float32 in natural order, still rotated: scale times centroid.

    Args:
        primary: [..., D / fields] uint8.
        extra: [..., D * extra / 8] uint8 or None.
        scale: [...] float16.
        centroids: [2**bits] float32.
        bits: 2, 3, 4, 5, 6 or 8.
        rotors: undone at last, or None.
    """
    planes = planes_of(bits)
    head_dim = primary.shape[-1] * planes.fields
    if _kernel is not None and dispatch.on_gpu(primary) and head_dim in HEAD_DIMS:
        vectors: torch.Tensor = _kernel.dequantize(primary, extra, scale, centroids, bits, rotors)
        return vectors
    stored = lookup(primary, extra, decode_table(centroids, bits))
    natural = reference.natural_order(stored, planes) * scale.float().unsqueeze(-1)
    return natural if rotors is None else turn_back(natural, rotors)


def unpack_codes(primary: torch.Tensor, extra: torch.Tensor | None, bits: int) -> torch.Tensor:
    """Codes [..., D] uint8 in natural order; the inverse of `ops.quantize.pack_codes`."""
    codes = torch.arange(2**bits, dtype=torch.uint8, device=primary.device)
    return reference.natural_order(
        lookup(primary, extra, decode_table(codes, bits)), planes_of(bits)
    )
