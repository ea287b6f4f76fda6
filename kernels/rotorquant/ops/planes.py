"""How codes lie in bytes: power-of-two bit planes, in plain integers.

A code of `bits` is split into a primary part of 2, 4 or 8 bits and an extra part of 0, 1 or 2:
3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2. Each part has a contiguous uint8 plane of its own, so no width
leaves holes. With D dimensions and f = 8 / primary codes in a primary byte,

    primary byte j, field t (bits primary*t and up): dimension j + offset_t, 0 <= j < D / f
    offsets: f = 1: (0);  f = 2: (0, D/2);  f = 4: (0, D/2, D/4, 3D/4)

so that the two members (i, i + D/2) of a rotary pair share one byte. The extra parts of the f codes
of a primary byte form a group of f * extra bits; extra byte j holds, lowest first, the groups of
the primary bytes j, j + n, j + 2n, ... with n the number of extra bytes. Unpacking therefore needs
shifts and masks only, and one table of 2**(8 + f * extra) entries turns a byte with its group
into f values at once. The order in which the fields come out, (j, t), is the storage order.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEAD_DIM_STEP", "PACKED_BITS", "Planes", "planes_of"]

PACKED_BITS = (2, 3, 4, 5, 6, 8)
HEAD_DIM_STEP = 8  # every plane then holds whole bytes


@dataclass(frozen=True, slots=True)
class Planes:
    """Widths in bits of the two parts of a code; `extra` may be 0."""

    primary: int
    extra: int

    @property
    def fields(self) -> int:
        """Codes in one primary byte."""
        return 8 // self.primary

    @property
    def group_bits(self) -> int:
        """Extra bits that belong to one primary byte."""
        return self.fields * self.extra

    @property
    def groups(self) -> int:
        """Primary bytes served by one extra byte; 0 without an extra plane."""
        return 8 // self.group_bits if self.extra else 0

    @property
    def table_entries(self) -> int:
        """Entries of the table that decodes a primary byte with its group."""
        return int(2 ** (8 + self.group_bits))

    def primary_bytes(self, head_dim: int) -> int:
        """Bytes of the primary plane of one head vector."""
        return head_dim * self.primary // 8

    def extra_bytes(self, head_dim: int) -> int:
        """Bytes of the extra plane of one head vector; 0 without one."""
        return head_dim * self.extra // 8

    def column_parts(self, head_dim: int) -> tuple[int, int]:
        """Width and number of the parts of primary bytes that share the bytes of the extra plane.

        A kernel takes dimensions d and d + D/2 together, so 8 bits count as two fields. Without an
        extra plane one part has all columns.
        """
        columns = head_dim // max(self.fields, 2)
        width = self.extra_bytes(head_dim) or columns
        return width, columns // width

    def storage_order(self, head_dim: int) -> list[int]:
        """The dimension at each place of the storage order."""
        columns = head_dim // self.fields
        half, quarter = head_dim // 2, head_dim // 4
        offsets = (0, half, quarter, half + quarter)[: self.fields]
        return [column + offset for column in range(columns) for offset in offsets]


def planes_of(bits: int) -> Planes:
    """The planes of a code width out of `PACKED_BITS`."""
    widths = {2: (2, 0), 3: (2, 1), 4: (4, 0), 5: (4, 1), 6: (4, 2), 8: (8, 0)}
    return Planes(*widths[bits])
