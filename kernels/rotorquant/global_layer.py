"""A layer that sees the whole sequence: exact first tokens, packed middle, exact latest tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import CacheLayerMixin

from rotorquant.buffers import TokenBuffer
from rotorquant.codec import Codec, make_codec
from rotorquant.config import RotorQuantConfig
from rotorquant.ops.attend import Part, Rows, attend_exact, attend_packed
from rotorquant.positions import PositionLog
from rotorquant.tied import TiedKey
from rotorquant.views import attend_in_blocks, check_chunk, check_room

__all__ = ["GlobalLayer", "GlobalState"]

_ENCODE_TOKENS = 4096  # packed at once; bounds the float32 workspace


class GlobalState(NamedTuple):
    """What `GlobalLayer.save` keeps: token counts and a copy of the exact latest tokens."""

    sink: int
    packed: int
    tail: list[torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class GlobalView:
    """A `LayerView` of a global layer; `key` [B, H, T, D] is the chunk's own, exact."""

    layer: GlobalLayer
    key: torch.Tensor

    def attend(
        self,
        query: torch.Tensor,
        scaling: float,
        key_mask: torch.Tensor | None,
        blocks: torch.Tensor | None,
    ) -> torch.Tensor:
        """See `LayerView`; pictures stay causal in global layers."""
        return self.layer.attend(query, self.key, scaling, key_mask)

    def to(self, *args: Any, **kwargs: Any) -> GlobalView:
        """Itself."""
        return self


class GlobalLayer(CacheLayerMixin):
    """Keys and values of one global layer; with a tie, V alone.

    Args:
        config: the cache's options.
        tie: how K follows from V, or None to store both.
        positions: the log of the cache; read for tied layers only.
        hands_views: whether `update` returns a view (else dequantized K and V).
    """

    is_sliding = False
    is_croppable = True

    def __init__(
        self,
        config: RotorQuantConfig,
        tie: TiedKey | None,
        positions: PositionLog | None,
        hands_views: Callable[[], bool],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._config = config
        self._tie = tie
        self._positions = positions
        self._hands_views = hands_views

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for the shapes of a first chunk; it is not stored."""
        config = self._config
        with torch.inference_mode(False):
            self._codec: Codec = make_codec(config, key_states.shape[-1], key_states.device)
        like = self._streams(key_states[:, :, :0], value_states[:, :, :0])
        rows = [self._codec.encode(stream) for stream in like]
        self._present = tuple(field is not None for field in rows[0])
        room = 0
        if config.max_tokens is not None:
            room = max(0, config.max_tokens - config.sink_tokens - config.recent_tokens)
        self._sink = TokenBuffer(like, config.sink_tokens)
        self._packed = TokenBuffer(_flat(rows), room)
        self._tail = TokenBuffer(like, self._tail_tokens)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Store a chunk [B, H, T, D]; see `RotorQuantCache` for what comes back."""
        batch = self._sink.rows()[0].shape[0] if self.is_initialized else None
        check_chunk(key_states, value_states, batch)
        length, tokens = self.get_seq_length(), key_states.shape[2]
        check_room(length, tokens, self._config.max_tokens)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._positions is not None:
            self._positions.extend(key_states.shape[0], length, tokens, key_states.device)
        self._pack_old()
        self._keep(self._streams(key_states, value_states))
        if self._hands_views():
            view = GlobalView(self, key_states)
            return view, view
        return self.dense(key_states)

    def attend(
        self,
        query: torch.Tensor,
        chunk_key: torch.Tensor,
        scaling: float,
        key_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention of the last T tokens, query [B, heads, T, D]; see `LayerView.attend`."""
        low, high = self._packed_span()
        key, value = self._exact(chunk_key)
        past = key.shape[2] - query.shape[2]
        packed_mask = exact_mask = None
        if key_mask is not None:
            packed_mask = key_mask[:, low:high]
            exact_mask = torch.cat((key_mask[:, :low], key_mask[:, high:]), dim=1)

        def parts(grouped: torch.Tensor, start: int) -> list[Part]:
            exact = attend_exact(grouped, key, value, past + start, key_mask=exact_mask)
            return [exact, self._attend_packed(grouped, packed_mask)] if high > low else [exact]

        return attend_in_blocks(query, key.shape[1], scaling, parts)

    def dense(self, chunk_key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, H, length, D] of all tokens, dequantized, in the model's dtype."""
        low, high = self._packed_span()
        key, value = self._exact(chunk_key)
        packed = [self._codec.decode(rows).to(value.dtype) for rows in self._packed_rows()]
        if self._tie is not None and self._positions is not None:
            packed.insert(
                0, self._tie.rebuild(packed[0], self._positions.read(low, high, value.device))
            )
        middle_key, middle_value = packed
        return (
            torch.cat((key[:, :, :low], middle_key, key[:, :, low:]), dim=2),
            torch.cat((value[:, :, :low], middle_value, value[:, :, low:]), dim=2),
        )

    def get_seq_length(self) -> int:
        """Tokens stored."""
        if not self.is_initialized:
            return 0
        return self._sink.length + self._packed.length + self._tail.length

    def get_max_length(self) -> int:
        """`max_tokens`, or -1 for none."""
        return self._config.max_tokens or -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, index of the first key) of the next chunk."""
        return self.get_seq_length() + query_length, 0

    @property
    def packed_tokens(self) -> int:
        """Tokens that are stored packed."""
        return self._packed.length if self.is_initialized else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tokens, unused room included."""
        if not self.is_initialized:
            return 0
        return self._sink.nbytes + self._packed.nbytes + self._tail.nbytes

    def reset(self) -> None:
        """Forget all tokens and give the memory back."""
        if self.is_initialized:
            del self._sink, self._packed, self._tail
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """Remove -tokens_to_remove tokens from the end."""
        self.crop_to(max(0, self.get_seq_length() - abs(tokens_to_remove)))

    def crop_to(self, length: int) -> None:
        """Keep the first `length` tokens."""
        if self.is_initialized:
            left = length
            for buffer in (self._sink, self._packed, self._tail):
                buffer.truncate(left)
                left -= buffer.length

    def save(self) -> GlobalState | None:
        """What `restore` needs to come back here; packed tokens are not copied."""
        if not self.is_initialized:
            return None
        tail = [rows.clone() for rows in self._tail.rows()]
        return GlobalState(self._sink.length, self._packed.length, tail)

    def restore(self, state: object) -> None:
        """Return to a saved state that later tokens have only been added to."""
        if not isinstance(state, GlobalState):
            self.reset()
            return
        self._sink.truncate(state.sink)
        self._packed.truncate(state.packed)
        self._tail.truncate(0)
        self._tail.resize(max(self._tail_tokens, state.tail[0].shape[2]))
        self._tail.append(state.tail)

    def select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace the batch dimension of everything stored as `change` does."""
        if self.is_initialized:
            for buffer in (self._sink, self._packed, self._tail):
                buffer.select_batch(change)

    @property
    def _tail_tokens(self) -> int:
        return self._config.recent_tokens + self._config.page_tokens

    def _streams(self, key: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
        # Detached, or a pass with gradients would keep its whole graph alive in the cache.
        return [value.detach()] if self._tie is not None else [key.detach(), value.detach()]

    def _packed_span(self) -> tuple[int, int]:
        return self._sink.length, self._sink.length + self._packed.length

    def _packed_rows(self) -> list[Rows]:
        """Rows of every stream."""
        fields = iter(self._packed.rows())
        streams = 1 if self._tie is not None else 2
        return [
            Rows(next(fields), *(next(fields) if there else None for there in self._present[1:]))
            for _ in range(streams)
        ]

    def _pack_old(self) -> None:
        """Pack the whole pages that have left the exact window."""
        old = self._tail.length - self._config.recent_tokens
        old -= old % self._config.page_tokens
        if old <= 0:
            return
        self._packed.make_room(old)
        for low in range(0, old, _ENCODE_TOKENS):
            pages = self._tail.rows(low, min(low + _ENCODE_TOKENS, old))
            self._packed.append(_flat([self._codec.encode(stream) for stream in pages]))
        self._tail.drop_front(old)

    def _keep(self, streams: list[torch.Tensor]) -> None:
        """Store new tokens exactly: first in the sink, then in the tail."""
        tokens = streams[0].shape[2]
        first = min(tokens, self._config.sink_tokens - self._sink.length)
        self._sink.append([stream[:, :, :first] for stream in streams])
        self._tail.resize(max(self._tail_tokens, self._tail.length + tokens - first))
        self._tail.append([stream[:, :, first:] for stream in streams])

    def _exact(self, chunk_key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of the tokens that are not packed, in order; the chunk's K as it was given."""
        streams = [
            torch.cat(pair, dim=2)
            for pair in zip(self._sink.rows(), self._tail.rows(), strict=True)
        ]
        if self._tie is None or self._positions is None:
            return streams[0], streams[1]
        value = streams[0]
        old = value.shape[2] - chunk_key.shape[2]
        if old == 0:
            return chunk_key, value
        low, high = self._packed_span()
        spans = (0, low), (high, high + old)
        positions = torch.cat([self._positions.read(*s, value.device) for s in spans], dim=1)
        positions = positions[:, :old]
        return torch.cat((self._tie.rebuild(value[:, :, :old], positions), chunk_key), 2), value

    def _attend_packed(self, grouped: torch.Tensor, key_mask: torch.Tensor | None) -> Part:
        """The packed tokens' part for queries [B, H, G, T, D], in natural space."""
        rows = self._packed_rows()
        query, rope = grouped.flatten(2, 3), None
        if self._tie is None or self._positions is None:
            stored_query = self._codec.to_stored(query)
        else:
            positions = self._positions.read(*self._packed_span(), query.device)
            dtype = self._sink.rows()[0].dtype
            stored_query, rope = self._tie.stored_query(query, self._codec, positions, dtype)
        value = rows[1] if len(rows) == 2 else None
        part = attend_packed(stored_query, rows[0], value, self._codec.table, rope, key_mask)
        shape = grouped.shape[2:4]
        total = self._codec.from_stored(part.total)
        return Part(*(field.unflatten(2, shape) for field in (part.top, part.mass, total)))


def _flat(rows: list[Rows]) -> list[torch.Tensor]:
    return [field for row in rows for field in row if field is not None]
