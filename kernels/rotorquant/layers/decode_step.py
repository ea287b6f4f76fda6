"""A decode step of one layer in a single pass: the views that call `ops.decode`.

Nothing here makes the host wait for the device: the lengths that the kernel reads lie there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rotorquant.attend.packed_rows import exact_queries, stored_queries
from rotorquant.attend.tied_key import TiedQueries
from rotorquant.attend.views import LayerView, Queries
from rotorquant.codec.codec import PackedCodec
from rotorquant.layers.global_store import GlobalStore
from rotorquant.layers.positions import PositionLog
from rotorquant.layers.sliding_ring import Ring
from rotorquant.ops.attend import Rows
from rotorquant.ops.decode import Exact, RowQueries, Stored, decode

__all__ = ["RingStep", "StoreStep"]


@dataclass(frozen=True, slots=True, eq=False)
class RingStep:
    """A `LayerView` of a sliding layer during a decode step, which reads the ring as it lies.

    Attributes:
        ring: of the layer, with the step's own tokens.
        old: the rows that these have pushed out.
        ordered: makes the view that reads keys in order, for a step that holds a picture.
        dense: gives K and V as `stored` does.
    """

    ring: Ring
    old: Exact
    ordered: Callable[[], LayerView]
    dense: Callable[[], tuple[torch.Tensor, torch.Tensor]]

    def attend(self, queries: Queries) -> torch.Tensor:
        """Attention output [B, T, heads, D]; a step that holds a picture reads keys in order."""
        if queries.blocks is not None:
            return self.ordered().attend(queries)
        last = self.ring.exact()
        near, dtype = RowQueries(_grouped(queries, last.key)), self.ring.empty.dtype
        steps, window = queries.query.shape[2], self.ring.window
        given = self.old, last, self.ring.counts, steps, window, queries.key_mask
        return _output(decode(near, *given, dtype=dtype).near, queries.query, dtype)

    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, kv_heads, N, D] of the layer, dequantized, in order."""
        return self.dense()


@dataclass(frozen=True, slots=True, eq=False)
class StoreStep:
    """A `LayerView` of a global layer during a decode step.

    Attributes:
        store: of the layer, with the step's own tokens; its rows are scored as they lie
            (`packed_rows.in_place`).
        tied_queries: of a layer that stores V alone; None with rows of K and of V.
        positions: of all tokens; read with a tie.
        dense: gives K and V as `stored` does.
    """

    store: GlobalStore
    tied_queries: TiedQueries | None
    positions: PositionLog | None
    dense: Callable[[], tuple[torch.Tensor, torch.Tensor]]

    def attend(self, queries: Queries) -> torch.Tensor:
        """Attention output [B, T, heads, D]; pictures stay causal in global layers."""
        store, query, key_mask = self.store, queries.query, queries.key_mask
        # Whole buffers, not the part in use: a captured step must not depend on lengths in Python.
        first, last = (_exact(buffer.whole()) for buffer in (store.sink, store.tail))
        grouped, steps = _grouped(queries, last.key), query.shape[2]
        positions = None if self.positions is None else self.positions.whole(query.device)
        dtype = last.key.primary.dtype
        near = exact_queries(grouped, self.tied_queries, positions, dtype)
        if not store.packed.capacity:  # no page has been packed yet, or none ever will be
            done = decode(near, first, last, store.counts, steps, None, key_mask, dtype=dtype)
            return _output(done.near, query, dtype)
        codecs, rows = store.packed.codecs, store.packed.whole_streams()
        value = rows[1] if len(rows) == 2 else None
        tables = store.packed.tables
        stored = Stored(rows[0], value, tables[0], tables[-1])
        far = stored_queries(near, codecs[0], self.tied_queries)
        done = decode(near, first, last, store.counts, steps, None, key_mask, far, stored)
        assert done.far is not None and done.share is not None
        # Two sums, because only that over packed rows has a rotation to be undone.
        codec = codecs[-1]
        if isinstance(codec, PackedCodec):
            output = codec.add_from_stored(done.far, done.near)
        else:
            output = done.near + codec.from_stored(done.far)
        # Rows leave the offset out; it counts as much as the softmax gives to all of them.
        if codecs[-1].offset is not None:
            output.addcmul_(done.share, codecs[-1].offset)
        return _output(output, query, dtype)

    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, kv_heads, N, D] of the layer, dequantized, in order."""
        return self.dense()


def _exact(streams: list[torch.Tensor]) -> Exact:
    rows = [Rows(stream, None, None) for stream in streams]
    return Exact(rows[0], rows[1] if len(rows) == 2 else None)


def _grouped(queries: Queries, key: Rows) -> torch.Tensor:
    """The queries of each key head, [B, H, G T, D] float32 and scaled."""
    scaled = queries.query.float()
    if queries.scaling != 1.0:
        scaled = scaled * queries.scaling
    batch, _, _, head_dim = scaled.shape
    heads = key.primary.shape[1]
    return scaled.reshape(batch, heads, -1, head_dim)


def _output(rows: torch.Tensor, query: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # In the model's dtype: fused layers hand over their queries in float32.
    batch, heads, steps, head_dim = query.shape
    return rows.reshape(batch, heads, steps, head_dim).transpose(1, 2).to(dtype)
