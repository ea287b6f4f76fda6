"""From head vectors to stored rows and back, and queries and outputs in the space of the rows.

A codec is what modes and widths change. `PackedCodec` rotates, quantizes and packs; `RawCodec`
keeps vectors as they are, for 16 bits. Attention code sees neither codes nor rotations: it maps its
queries with `to_stored`, lets `ops.attend` read rows, and maps the sum back with `from_stored`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from rotorquant.codebook import lloyd_max
from rotorquant.config import RotorQuantConfig
from rotorquant.ops.attend import Rows
from rotorquant.ops.dequantize import decode_table, dequantize
from rotorquant.ops.planes import planes_of
from rotorquant.ops.quantize import quantize
from rotorquant.rotation import make_rotation

__all__ = ["Codec", "PackedCodec", "RawCodec", "make_codec"]


class Codec(Protocol):
    """Storage format of one head vector [D]."""

    table: torch.Tensor | None
    place: torch.Tensor

    def encode(self, vectors: torch.Tensor) -> Rows:
        """Rows of vectors [B, H, N, D]."""
        ...

    def decode(self, rows: Rows) -> torch.Tensor:
        """Vectors [B, H, N, D] float32 of rows."""
        ...

    def to_stored(self, vectors: torch.Tensor) -> torch.Tensor:
        """Float32 vectors [..., D] in the space of the rows; keeps dot products."""
        ...

    def from_stored(self, vectors: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_stored`."""
        ...


class RawCodec:
    """Keeps every vector in the model's own dtype.

    Attributes:
        table: None; rows hold plain values.
        place: [D], where each dimension stands in a row.
    """

    def __init__(self, head_dim: int, device: torch.device) -> None:
        self.table: torch.Tensor | None = None
        self.place = torch.arange(head_dim, device=device)

    def encode(self, vectors: torch.Tensor) -> Rows:
        """Rows of vectors [B, H, N, D]."""
        return Rows(vectors, None, None)

    def decode(self, rows: Rows) -> torch.Tensor:
        """Vectors [B, H, N, D] float32 of rows."""
        return rows.primary.float()

    def to_stored(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vectors themselves."""
        return vectors

    def from_stored(self, vectors: torch.Tensor) -> torch.Tensor:
        """The vectors themselves."""
        return vectors


class PackedCodec:
    """Rotation, Lloyd-Max codes in bit planes, one fp16 matched-norm scale per vector.

    Attributes:
        table: decodes a byte (`ops.dequantize.decode_table`).
        place: [D], where each dimension stands in a row (`ops.planes`).
    """

    def __init__(
        self, bits: int, mode: str, seed: int, head_dim: int, device: torch.device
    ) -> None:
        self._bits = bits
        self._rotation = make_rotation(mode, head_dim, seed, device)
        self._centroids = torch.tensor(lloyd_max(bits), dtype=torch.float32, device=device)
        self._order = torch.tensor(planes_of(bits).storage_order(head_dim), device=device)
        self.place = self._order.argsort()
        self.table: torch.Tensor | None = decode_table(self._centroids, bits)

    def encode(self, vectors: torch.Tensor) -> Rows:
        """Rows of vectors [B, H, N, D]."""
        return Rows(*quantize(self._rotation.apply(vectors.float()), self._centroids, self._bits))

    def decode(self, rows: Rows) -> torch.Tensor:
        """Vectors [B, H, N, D] float32 of rows."""
        assert rows.scale is not None
        vectors = dequantize(rows.primary, rows.extra, rows.scale, self._centroids, self._bits)
        return self._rotation.invert(vectors)

    def to_stored(self, vectors: torch.Tensor) -> torch.Tensor:
        """Rotated, then in storage order."""
        return self._rotation.apply(vectors).index_select(-1, self._order)

    def from_stored(self, vectors: torch.Tensor) -> torch.Tensor:
        """Back in natural order, then rotated back."""
        return self._rotation.invert(vectors.index_select(-1, self.place))


def make_codec(config: RotorQuantConfig, head_dim: int, device: torch.device) -> Codec:
    """The codec of packed global tokens."""
    if config.bits == 16:
        return RawCodec(head_dim, device)
    return PackedCodec(config.bits, config.mode, config.seed, head_dim, device)
