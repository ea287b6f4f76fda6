"""A sliding-window layer: a ring of exactly the window, in 16 or 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import CacheLayerMixin

from rotorquant.config import RotorQuantConfig
from rotorquant.errors import CacheStateError
from rotorquant.ops.attend import Part, attend_exact
from rotorquant.views import attend_in_blocks, check_chunk, check_room

__all__ = ["SlidingLayer", "SlidingState"]


class SlidingState(NamedTuple):
    """What `SlidingLayer.save` keeps: the length and a copy of the ring."""

    length: int
    ring: list[torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class SlidingView:
    """A `LayerView` of a sliding layer: the keys that the chunk can see, itself included.

    Attributes:
        key, value: [B, H, N, D].
        window: for keys in order of the sequence; None where every key is seen by one query.
        indices: [N], where in the sequence each key stands.
    """

    key: torch.Tensor
    value: torch.Tensor
    window: int | None
    indices: torch.Tensor

    def attend(
        self,
        query: torch.Tensor,
        scaling: float,
        key_mask: torch.Tensor | None,
        blocks: torch.Tensor | None,
    ) -> torch.Tensor:
        """See `LayerView`."""
        past = self.key.shape[2] - query.shape[2]
        mask = None if key_mask is None else key_mask.index_select(1, self.indices)
        own = None if blocks is None else blocks.index_select(1, self.indices)

        def parts(grouped: torch.Tensor, start: int) -> list[Part]:
            return [
                attend_exact(grouped, self.key, self.value, past + start, self.window, mask, own)
            ]

        return attend_in_blocks(query, self.key.shape[1], scaling, parts)

    def to(self, *args: Any, **kwargs: Any) -> SlidingView:
        """Itself."""
        return self


class SlidingLayer(CacheLayerMixin):
    """Keys and values of the last `window` tokens; token t lies in slot t mod window.

    With 8 bits a vector x is int8 codes round(x / s) and an fp16 scale s = max|x| / 127.

    Args:
        config: the cache's options.
        window: tokens that a query sees, itself included.
        hands_views: whether `update` returns a view (else K and V in order).
    """

    is_sliding = True
    is_croppable = False

    def __init__(
        self, config: RotorQuantConfig, window: int, hands_views: Callable[[], bool]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._config = config
        self._hands_views = hands_views
        self._window = window
        self._length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for the shapes of a first chunk; it is not stored."""
        self._dtype = key_states.dtype
        empty = self._encode([key_states[:, :, :0], value_states[:, :, :0]])
        with torch.inference_mode(False):
            self._ring = [
                rows.new_zeros((*rows.shape[:2], self._window, *rows.shape[3:])) for rows in empty
            ]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Store a chunk [B, H, T, D]; see `RotorQuantCache` for what comes back."""
        batch = self._ring[0].shape[0] if self.is_initialized else None
        check_chunk(key_states, value_states, batch)
        tokens = key_states.shape[2]
        check_room(self._length, tokens, self._config.max_tokens)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if tokens == 1 and self._config.sliding_bits == 16 and self._hands_views():
            self._write([key_states, value_states])
            view = self._whole_ring()
            return view, view
        past_key, past_value, indices = self._history(tokens)
        key = torch.cat((past_key, key_states), dim=2)
        value = torch.cat((past_value, value_states), dim=2)
        self._write([key_states, value_states])
        if not self._hands_views():
            return key, value
        view = SlidingView(key, value, self._window, indices)
        return view, view

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self._length

    def get_max_length(self) -> int:
        """`max_tokens`, or -1 for none."""
        return self._config.max_tokens or -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, index of the first key) of the next chunk."""
        past = min(self._length, self._window - 1)
        return past + query_length, self._length - past

    @property
    def nbytes(self) -> int:
        """Bytes of the ring."""
        return sum(rows.nbytes for rows in self._ring) if self.is_initialized else 0

    def reset(self) -> None:
        """Forget all tokens and give the memory back."""
        if self.is_initialized:
            del self._ring
        self._length = 0
        self.is_initialized = False

    def check_crop(self, length: int) -> None:
        """Raise unless the ring still holds what a query at `length` sees.

        Raises:
            CacheStateError: tokens that are needed again have been overwritten.
        """
        needed, kept = max(0, length - self._window + 1), max(0, self._length - self._window)
        if needed < kept:
            raise CacheStateError(
                f"going back from {self._length} to {length} tokens needs sliding-window tokens "
                f"from {needed} on, and those before {kept} are gone; use mark() and rewind()"
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Remove -tokens_to_remove tokens from the end; see `check_crop`."""
        self.crop_to(max(0, self._length - abs(tokens_to_remove)))

    def crop_to(self, length: int) -> None:
        """Keep the first `length` tokens; see `check_crop`."""
        self.check_crop(length)
        self._length = min(self._length, length)

    def save(self) -> SlidingState | None:
        """What `restore` needs to come back here."""
        if not self.is_initialized:
            return None
        return SlidingState(self._length, [rows.clone() for rows in self._ring])

    def restore(self, state: object) -> None:
        """Return to a saved state that later tokens have only been added to."""
        if not isinstance(state, SlidingState):
            self.reset()
            return
        self._length = state.length
        for rows, saved in zip(self._ring, state.ring, strict=True):
            rows.copy_(saved)

    def select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace the batch dimension of everything stored as `change` does."""
        if self.is_initialized:
            with torch.inference_mode(False):
                self._ring = [change(rows) for rows in self._ring]

    def _whole_ring(self) -> SlidingView:
        """What one query that has just been written sees: every slot in use, in any order."""
        used = min(self._length, self._window)
        slots = torch.arange(used, device=self._ring[0].device)
        last = self._length - 1
        indices = last - (last - slots) % self._window
        key, value = (rows[:, :, :used] for rows in self._ring)
        # The causal rule goes by place in the ring, so the query takes the last one.
        return SlidingView(key, value, None, indices)

    def _history(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """K and V of the last window - 1 tokens in order; indices also of `tokens` more."""
        start = self._length - min(self._length, self._window - 1)
        indices = torch.arange(start, self._length + tokens, device=self._ring[0].device)
        slots = indices[: self._length - start] % self._window
        rows = [ring.index_select(2, slots) for ring in self._ring]
        key, value = self._decode(rows)
        return key, value, indices

    def _write(self, streams: list[torch.Tensor]) -> None:
        tokens = streams[0].shape[2]
        kept = min(tokens, self._window)
        self._length += tokens
        slots = torch.arange(self._length - kept, self._length, device=streams[0].device)
        latest = self._encode([stream[:, :, tokens - kept :].detach() for stream in streams])
        for ring, rows in zip(self._ring, latest, strict=True):
            ring.index_copy_(2, slots % self._window, rows)

    def _encode(self, streams: list[torch.Tensor]) -> list[torch.Tensor]:
        if self._config.sliding_bits == 16:
            return streams
        codes, scales = [], []
        for stream in streams:
            scale = (stream.float().abs().amax(-1) / 127).to(torch.float16)
            step = scale.float().clamp_min(torch.finfo(torch.float16).tiny).unsqueeze(-1)
            codes.append((stream.float() / step).round().clamp(-127, 127).to(torch.int8))
            scales.append(scale)
        return codes + scales

    def _decode(self, rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self._config.sliding_bits == 16:
            return rows[0], rows[1]
        key, value = (
            (codes.float() * scale.float().unsqueeze(-1)).to(self._dtype)
            for codes, scale in zip(rows[:2], rows[2:], strict=True)
        )
        return key, value
