"""TurboQuant's second stage for keys: signs of a residual (arXiv 2504.19874, 2406.03482).

A code of one bit less leaves a residual r = x - x'. Of it |r| and the signs of S r are stored, S a
Gaussian [D, D] matrix, and decoded is

    x' + |r| sqrt(pi / 2) / D  S^T sign(S r),

whose product with any query is that of x on average over S.
"""

from __future__ import annotations

import math

import torch

from rotorquant.codec.codec import PackedCodec
from rotorquant.ops.attend import Rows
from rotorquant.ops.quantize import put

__all__ = ["ResidualCodec"]


class ResidualCodec:
    """A `PackedCodec` and one sign per dimension; rows have to be decoded to be scored.

    The signs lie behind the extra plane, and |r| behind the scale: [B, H, N, 2] float16.

    Args:
        inner: the code of one bit less.
        head_dim: D.
        seed: of S.
        device: where vectors lie.
    """

    def __init__(self, inner: PackedCodec, head_dim: int, seed: int, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(seed)
        # On the CPU, whose generator gives the same S everywhere.
        projection = torch.randn(head_dim, head_dim, generator=draw, dtype=torch.float64)
        self._inner = inner
        self._projection = projection.to(device=device, dtype=torch.float32)
        self.table: torch.Tensor | None = None
        self.place = inner.place
        self.pairs: int | None = None
        self.offset: torch.Tensor | None = None

    def encode(self, vectors: torch.Tensor, into: Rows | None = None) -> Rows:
        """Rows of vectors [B, H, N, D]; the second stage is torch code on every device."""
        rows = self._inner.encode(vectors)
        # What is lost is measured on decoded rows, so the float16 scale's rounding counts as well.
        residual = vectors.float() - self._inner.decode(rows)
        signs = _pack(residual @ self._projection.mT >= 0)
        extra = signs if rows.extra is None else torch.cat((rows.extra, signs), dim=-1)
        length = torch.linalg.vector_norm(residual, dim=-1).to(torch.float16)
        assert rows.scale is not None
        return Rows(*put((rows.primary, extra, torch.stack((rows.scale, length), dim=-1)), into))

    def decode(self, rows: Rows) -> torch.Tensor:
        """Vectors [B, H, N, D] float32 of rows."""
        assert rows.extra is not None and rows.scale is not None
        size = self._projection.shape[0]
        plane, signs = rows.extra.split([rows.extra.shape[-1] - size // 8, size // 8], dim=-1)
        scale, length = rows.scale.unbind(-1)
        extra = plane if plane.shape[-1] else None
        step = length.float().unsqueeze(-1) * (math.sqrt(math.pi / 2) / size)
        return self._inner.decode(Rows(rows.primary, extra, scale)) + step * (
            (_unpack(signs) * 2.0 - 1.0) @ self._projection
        )

    def to_stored(self, queries: torch.Tensor) -> torch.Tensor:
        """The queries as they are, because rows are decoded before they are scored."""
        return queries

    def from_stored(self, sums: torch.Tensor) -> torch.Tensor:
        """The sums as they are, because they are sums of decoded vectors."""
        return sums


def _pack(flags: torch.Tensor) -> torch.Tensor:
    """[..., D] bool -> [..., D / 8] uint8, lowest bit first."""
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=flags.device)
    return torch.mul(flags.unflatten(-1, (-1, 8)), weights).sum(-1, dtype=torch.uint8)


def _unpack(plane: torch.Tensor) -> torch.Tensor:
    """The inverse of `_pack`, as uint8."""
    shifts = torch.arange(8, dtype=torch.uint8, device=plane.device)
    return torch.bitwise_and(plane.unsqueeze(-1) >> shifts, 1).flatten(-2)
