"""The packed tokens of a global layer: rows of every stream, and codecs that read and write them.

A tied layer has one stream, the latent V; other layers have two, K and V, each with a width of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from rotorquant.codec.codec import Codec, Frame, PackedCodec
from rotorquant.layers.buffers import Meter, TokenBuffer
from rotorquant.ops import dispatch
from rotorquant.ops.attend import Rows
from rotorquant.ops.quantize import put

__all__ = ["PackedBuffer"]

_WORK_TOKENS = 4096  # encoded or decoded at once; bounds the float32 workspace


class PackedBuffer(TokenBuffer):
    """Packed rows of every stream.

    Args:
        codecs: of each stream.
        like: a tensor [B, H, any, D] per stream: heads, dtype and device.
        capacity: tokens to allocate now.
        meter: of the cache.
        count: [1] int64 on the device, to keep at `length`.
    """

    def __init__(
        self,
        codecs: Sequence[Codec],
        like: Sequence[torch.Tensor],
        capacity: int,
        meter: Meter,
        count: torch.Tensor | None = None,
    ) -> None:
        self.codecs = tuple(codecs)
        self._tables: tuple[torch.Tensor | None, ...] = ()
        self._tables_of: tuple[Codec, ...] = ()
        # Encoding no token gives the shapes and dtypes of rows, whatever the codec.
        rows = [codec.encode(stream[:, :, :0]) for codec, stream in zip(codecs, like, strict=True)]
        self._present = [tuple(field is not None for field in row) for row in rows]
        super().__init__(_flat(rows), capacity, meter, count)

    def pack(self, streams: Sequence[torch.Tensor]) -> None:
        """Add the vectors [B, H, N, D] of every stream."""
        tokens = streams[0].shape[2]
        self.reserve(tokens)
        for low, high in _pieces(tokens):
            targets = self.streams(self.length, self.length + high - low)
            for codec, stream, rows in zip(self.codecs, streams, targets, strict=True):
                codec.encode(stream[:, :, low:high], rows)
            self.length += high - low

    @property
    def tables(self) -> tuple[torch.Tensor | None, ...]:
        """The codecs' decode tables in the dtype in which a decode step reads them."""
        if self._tables_of is not self.codecs:  # once, not as a launch of every step
            wanted = torch.float16 if dispatch.on_gpu(self.whole()[0]) else torch.float32
            with torch.inference_mode(False):
                made = [None if c.table is None else c.table.to(wanted) for c in self.codecs]
            self._tables, self._tables_of = tuple(made), self.codecs
        return self._tables

    def streams(self, low: int = 0, high: int | None = None) -> list[Rows]:
        """Views of the rows of every stream, tokens `low` to `high`."""
        return self._rows_of(self.rows(low, high))

    def whole_streams(self) -> list[Rows]:
        """Views of the rows of every stream, their whole capacity."""
        return self._rows_of(self.whole())

    def _rows_of(self, tensors: list[torch.Tensor]) -> list[Rows]:
        # Fields that a row does not have hold no place in the flat list.
        fields = iter(tensors)
        return [
            Rows(next(fields), *(next(fields) if there else None for there in present[1:]))
            for present in self._present
        ]

    def decode(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """Vectors [B, H, length, D] of every stream."""
        pieces = [
            [
                codec.decode(rows).to(dtype)
                for codec, rows in zip(self.codecs, self.streams(low, high), strict=True)
            ]
            for low, high in _pieces(self.length)
        ]
        if not pieces:
            empty = zip(self.codecs, self.streams(), strict=True)
            return [codec.decode(rows).to(dtype) for codec, rows in empty]
        return [torch.cat(stream, dim=2) for stream in zip(*pieces, strict=True)]

    def frames(self) -> tuple[Frame, ...]:
        """The frame of every stream, zeros for one of 16 bits; empty where there is none."""
        own = [codec.frame if isinstance(codec, PackedCodec) else None for codec in self.codecs]
        known = next((frame for frame in own if frame is not None), None)
        if known is None:
            return ()
        nothing = Frame(*map(torch.zeros_like, known))
        return tuple(nothing if frame is None else frame for frame in own)

    def take(self, frames: Sequence[Frame], *, moves: bool = True) -> None:
        """Other frames for all codecs, or none; what is stored moves to them in its place."""
        stored = self.decode(torch.float32) if moves and self.length else None
        for stream, codec in enumerate(self.codecs):
            if isinstance(codec, PackedCodec):
                codec.take(frames[stream] if frames else None)
                if stored is not None:
                    codec.encode(stored[stream], self.streams()[stream])

    def repacked(
        self, codecs: Sequence[Codec], like: Sequence[torch.Tensor], capacity: int
    ) -> PackedBuffer:
        """The same tokens in other codecs; this buffer is left as it is.

        A stream whose codec stays keeps its rows to the bit.
        """
        new = PackedBuffer(codecs, like, capacity, self._meter, self.count)
        new.reserve(self.length)
        for low, high in _pieces(self.length):
            rows = self.streams(low, high)
            pairs = zip(self.codecs, new.codecs, rows, new.streams(low, high), strict=True)
            for old, codec, row, target in pairs:
                if old is codec:
                    put(row, target)
                else:
                    codec.encode(old.decode(row), target)
            new.length = high
        return new


def _pieces(tokens: int) -> Iterator[tuple[int, int]]:
    for low in range(0, tokens, _WORK_TOKENS):
        yield low, min(low + _WORK_TOKENS, tokens)


def _flat(rows: Sequence[Rows]) -> list[torch.Tensor]:
    return [field for row in rows for field in row if field is not None]
