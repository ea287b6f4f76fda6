"""Specification of the dequantize op: which values a stored byte stands for.

Entry (byte, group) of the table holds, for every field t,

value[(byte >> primary t) mod 2**primary  +  2**primary * ((group >> extra t) mod 2**extra)]
"""

from __future__ import annotations

import torch

from rotorquant.ops.planes import Planes, planes_of

__all__ = ["decode_table", "lookup", "natural_order"]


def decode_table(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Table [2**(8 + group bits), fields] of values [2**bits]: a row for a byte with its group."""
    planes = planes_of(bits)
    entry = torch.arange(planes.table_entries, device=values.device).unsqueeze(-1)
    field = torch.arange(planes.fields, device=values.device)
    low = (entry >> (planes.primary * field)) & (2**planes.primary - 1)
    high = (entry >> (8 + planes.extra * field)) & (2**planes.extra - 1)
    return values[low | (high << planes.primary)]


def lookup(
    primary: torch.Tensor,
    extra: torch.Tensor | None,
    table: torch.Tensor,
    fields: int,
    group_bits: int,
) -> torch.Tensor:
    """Unscaled values [..., D] in storage order, `fields` of them for a primary byte."""
    entry = primary.to(torch.int32)
    if extra is not None:
        mask = 2**group_bits - 1
        groups = [(extra >> shift) & mask for shift in range(0, 8, group_bits)]
        entry |= torch.cat(groups, dim=-1).to(torch.int32) << 8
    # A row of the table is fetched as one wide element: seven times faster than a gather of rows.
    wide = _wide(table, fields)
    rows = wide.index_select(0, entry.flatten()).view(table.dtype)
    return rows.view(*primary.shape[:-1], primary.shape[-1] * fields)


def natural_order(stored: torch.Tensor, planes: Planes) -> torch.Tensor:
    """[..., D] from storage order to the order of dimensions."""
    order = torch.tensor(planes.storage_order(stored.shape[-1]), device=stored.device)
    natural = torch.empty_like(stored)
    natural[..., order] = stored
    return natural


def _wide(table: torch.Tensor, fields: int) -> torch.Tensor:
    """[entries, fields] -> [entries] of elements as wide as a row."""
    # The type does not matter: only its width is used.
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
    return table.contiguous().view(kinds[fields * table.element_size()]).flatten()
