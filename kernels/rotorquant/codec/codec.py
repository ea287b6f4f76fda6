"""From head vectors to stored rows and back, and queries and outputs in the space of the rows.

A codec is what modes and widths change. `PackedCodec` moves, maps, quantizes and packs,

    z = T (x - m),

and reads scores and sums in the space of z: q x = (T^-T q) z + q m, and the sum of p x is the sum
of p z taken back, plus the sum of p times m. Without a `Frame` T is the rotation of the mode and
m is zero. `RawCodec` keeps vectors as they are, for 16 bits.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from rotorquant.codec.codebook import lloyd_max
from rotorquant.codec.hadamard_signs import mix_of
from rotorquant.codec.rotation import PlanarRotation, Rotation
from rotorquant.ops.attend import Rows
from rotorquant.ops.dequantize import decode_table, dequantize
from rotorquant.ops.encode import Dense, encode, serves
from rotorquant.ops.mix import Mix
from rotorquant.ops.planes import planes_of
from rotorquant.ops.quantize import make_codebook, put, quantize
from rotorquant.ops.rotors import Rotors

__all__ = ["Codec", "Frame", "PackedCodec", "RawCodec"]


class Frame(NamedTuple):
    """What a calibration puts in the place of a rotation, float32 (`statistics.make_frame`).

    offset: [H, 1, D], m. matrix, inverse: [H, D, D], T and T^-1. feedback: [H, D, D], F,
    by which codes make up for errors of others (`statistics.feedback_of`).
    """

    offset: torch.Tensor
    matrix: torch.Tensor
    inverse: torch.Tensor
    feedback: torch.Tensor


class Codec(Protocol):
    """Storage format of one head vector [D].

    Attributes:
        table: decodes a byte (`ops.dequantize.decode_table`); None where rows hold plain values.
        place: [D], where each dimension stands in a row.
        pairs: rotary pairs, from the first on, that rows keep as pairs; None where rows cannot be
            scored at all before they are decoded.
        offset: [H, 1, D] float32, what `to_stored` leaves out of every vector, or None.
    """

    table: torch.Tensor | None
    place: torch.Tensor
    pairs: int | None
    offset: torch.Tensor | None

    def encode(self, vectors: torch.Tensor, into: Rows | None = None) -> Rows:
        """Rows of vectors [B, H, N, D], in the tensors `into` if there are any."""
        ...

    def decode(self, rows: Rows) -> torch.Tensor:
        """Vectors [B, H, N, D] float32 of rows."""
        ...

    def to_stored(self, queries: torch.Tensor) -> torch.Tensor:
        """Float32 queries [B, H, R, D] whose products with rows are those with x - offset."""
        ...

    def from_stored(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums [B, H, R, D] of rows as sums of x - offset."""
        ...


class RawCodec:
    """Keeps every vector in the model's own dtype; see `Codec` for the attributes."""

    def __init__(self, head_dim: int, device: torch.device) -> None:
        self.table: torch.Tensor | None = None
        self.place = torch.arange(head_dim, device=device)
        self.pairs: int | None = head_dim // 2
        self.offset: torch.Tensor | None = None

    def encode(self, vectors: torch.Tensor, into: Rows | None = None) -> Rows:
        """Rows of vectors [B, H, N, D], in the tensors `into` if there are any."""
        return Rows(*put((vectors, None, None), into))

    def decode(self, rows: Rows) -> torch.Tensor:
        """Vectors [B, H, N, D] float32 of rows."""
        return rows.primary.float()

    def to_stored(self, queries: torch.Tensor) -> torch.Tensor:
        """The queries as they are, because rows are the vectors themselves."""
        return queries

    def from_stored(self, sums: torch.Tensor) -> torch.Tensor:
        """The sums as they are, because rows are the vectors themselves."""
        return sums


class PackedCodec:
    """Rotation, codes in bit planes, one fp16 scale per vector; see `Codec` for the attributes.

    Args:
        bits: width of a code.
        rotation: R.
        head_dim: D.
        device: where vectors lie.
        frame: in the place of the rotation, or None.
        heads: for which `take` may put another frame there, or None.
        matched: whether the scale makes decoded vectors as long as they were, as it does with a
            frame; else it is |z| / sqrt(D).
        centroids: for unit variance; Lloyd-Max by default.
    """

    def __init__(
        self,
        bits: int,
        rotation: Rotation,
        head_dim: int,
        device: torch.device,
        *,
        frame: Frame | None = None,
        heads: int | None = None,
        matched: bool = True,
        centroids: tuple[float, ...] | None = None,
    ) -> None:
        self.bits = bits
        self._rotation = rotation
        # Of codecs that learn too: what was packed before has the same form
        self._matched = matched or frame is not None
        # The kernels apply planar rotors themselves, so that no rotated copy is needed
        self._rotors: Rotors | None = None
        if frame is None and isinstance(rotation, PlanarRotation):
            self._rotors = rotation.cos, rotation.sin
        # Its grid of cells is what kernels read to find the nearest centroid without a search.
        self._book = make_codebook(lloyd_max(bits) if centroids is None else centroids, device)
        self._centroids = self._book.centroids
        self._order = torch.tensor(planes_of(bits).storage_order(head_dim), device=device)
        self.place = self._order.argsort()
        # [D, D] or [H, D, D]: T^-1, its columns in storage order. One product takes queries there
        # and sums back, where a rotation's own way is six launches for a few rows.
        # With `heads` it stays the same tensor whatever the frame, as captured steps read it.
        self._inverse = (self._turned_back() if frame is None else frame.inverse)[..., self._order]
        self.offset = None if frame is None else frame.offset.clone()
        if heads is not None and frame is None:
            self._inverse = self._inverse.repeat(heads, 1, 1)
            self.offset = torch.zeros(heads, 1, head_dim, device=device)
        self.table: torch.Tensor | None = decode_table(self._centroids, bits)
        # A frame keeps the same pairs as the rotation that it replaces (`statistics.make_frame`).
        self.pairs: int | None = rotation.pairs
        self._rotates = self._kernel_map(head_dim) if frame is None or heads is not None else None
        self._map = self._rotates if frame is None else self._dense(frame)

    @property
    def tables(self) -> list[torch.Tensor]:
        """What readers of rows take from a frame, always in the same tensors."""
        return [] if self.offset is None else [self.offset, self._inverse]

    @property
    def frame(self) -> Frame | None:
        """A copy of the frame in use, or None."""
        known = self._map
        if not isinstance(known, Dense) or known.feedback is None or self.offset is None:
            return None
        inverse = self._inverse.index_select(-1, self.place)
        return Frame(self.offset.clone(), known.matrix, inverse, known.feedback)

    def take(self, frame: Frame | None) -> None:
        """Another frame, or the rotation alone; only for a codec that was made with `heads`."""
        assert self.offset is not None
        inverse = self._turned_back() if frame is None else frame.inverse
        inverse = inverse.to(self._order.device, non_blocking=True)
        self._inverse.copy_(inverse.index_select(-1, self._order).expand_as(self._inverse))
        if frame is None:
            self.offset.zero_()
            self._map = self._rotates
        else:
            self.offset.copy_(frame.offset, non_blocking=True)
            self._map = self._dense(frame)

    def _dense(self, frame: Frame) -> Dense:
        return Dense(frame.matrix, self.offset, frame.feedback)

    def _turned_back(self) -> torch.Tensor:
        """R^-1, [D, D]."""
        size = self._order.shape[0]
        return self._rotation.apply(torch.eye(size, device=self._order.device))

    def encode(self, vectors: torch.Tensor, into: Rows | None = None) -> Rows:
        """Rows of vectors [B, H, N, D], in the tensors `into` if there are any."""
        if self._map is not None:
            return Rows(*encode(vectors, self._book, self._map, self._matched, into))
        rotated = vectors if self._rotors else self._rotation.apply(vectors.float())
        return Rows(*quantize(rotated, self._book, self._rotors, self._matched, into))

    def _kernel_map(self, head_dim: int) -> Dense | Mix | None:
        """What kernels take in the place of `Rotation.apply`."""
        if self._rotors or not serves(self._centroids, head_dim):
            return None
        matrix = self._turned_back().mT[None].contiguous()
        return mix_of(self._rotation, head_dim) or Dense(matrix)

    def decode(self, rows: Rows) -> torch.Tensor:
        """Vectors [B, H, N, D] float32 of rows."""
        assert rows.scale is not None
        rotated = dequantize(
            rows.primary, rows.extra, rows.scale, self._centroids, self.bits, self._rotors
        )
        if self.offset is not None:
            # `dequantize` gives natural order, `from_stored` takes storage order.
            return self.from_stored(rotated[..., self._order]) + self.offset
        return rotated if self._rotors else self._rotation.invert(rotated)

    def to_stored(self, queries: torch.Tensor) -> torch.Tensor:
        """T^-T q, in storage order."""
        return queries @ self._inverse

    def from_stored(self, sums: torch.Tensor) -> torch.Tensor:
        """Back in natural order, then T^-1 of it."""
        return sums @ self._inverse.mT

    def add_from_stored(self, sums: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
        """`onto` [B, H, R, D] float32, to which the product itself adds `from_stored(sums)`."""
        matrix, size = self._inverse.mT, sums.shape[-1]
        if matrix.ndim == 2:
            onto.view(-1, size).addmm_(sums.reshape(-1, size), matrix)
        else:  # of every head
            onto.flatten(0, 1).baddbmm_(
                sums.flatten(0, 1), matrix.expand(sums.shape[0], -1, -1, -1).flatten(0, 1)
            )
        return onto
