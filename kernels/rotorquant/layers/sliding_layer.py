"""A sliding-window layer: a ring of exactly the window, and attention over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rotorquant.attend.prompt_chunk import attend_keys, attend_step
from rotorquant.attend.views import Queries, check_capacity, check_chunk, handles
from rotorquant.config import RotorQuantConfig
from rotorquant.exceptions import CacheStateError, SnapshotError
from rotorquant.layers.base import StoringLayer
from rotorquant.layers.decode_step import RingStep
from rotorquant.layers.finite_check import LayerContext
from rotorquant.layers.kept_rows import KeptRows
from rotorquant.layers.sliding_ring import Ring
from rotorquant.ops.decode import Exact, serves

__all__ = ["SlidingLayer"]


@dataclass(frozen=True, slots=True, eq=False)
class SlidingView:
    """A `LayerView` of a sliding layer: the keys that the chunk can see, itself included.

    Attributes:
        layer: whose view it is.
        key, value: [B, H, N, D].
        window: for keys in order of the sequence; None where every key is seen by one query.
        indices: gives [N], where in the sequence each key stands.
    """

    layer: SlidingLayer
    key: torch.Tensor
    value: torch.Tensor
    window: int | None
    indices: Callable[[], torch.Tensor]

    def attend(self, queries: Queries) -> torch.Tensor:
        """Attention output [B, T, heads, D] over the keys of this view."""
        if self.window is None and queries.key_mask is None and not self.key.is_cuda:
            return attend_step(queries, self.key, self.value)  # its own picture hides nothing
        mask, blocks = (
            None if each is None else each.index_select(1, self.indices())
            for each in (queries.key_mask, queries.blocks)
        )
        here = Queries(queries.query, queries.scaling, mask, blocks)
        return attend_keys(here, self.key, self.value, self.window)

    def stored(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, kv_heads, N, D] that the layer stores now, dequantized, in order."""
        return self.layer.dense()


class SlidingLayer(StoringLayer[Ring]):
    """Keys and values of the last `window` tokens.

    Args:
        config: the cache's options.
        window: tokens that a query sees, itself included.
        context: what the layers share.
    """

    is_sliding = True

    def __init__(self, config: RotorQuantConfig, window: int, context: LayerContext) -> None:
        super().__init__(config, context)
        self.window = window

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for the shapes of a first chunk; it is not stored."""
        bits, meter = self._config.sliding_bits, self._context.meter
        self.store = Ring(key_states, self.window, bits, meter)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Store a chunk [B, H, T, D]; returns and raises as `RotorQuantCache.update` does."""
        check_chunk(key_states, value_states, self.store.empty if self.is_initialized else None)
        tokens = key_states.shape[2]
        check_capacity(self.get_seq_length(), tokens, self._config.max_tokens)
        total = self._context.finite_check.check(key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        streams, returns_views = [key_states, value_states], self._context.returns_views()
        if returns_views and self._in_one_pass(key_states):
            # Copied before the write overwrites them: the first queries of the step see them.
            old = self.store.leaving(tokens)
            self.store.write(streams, self.record_past, total)
            return handles(RingStep(self.store, old, lambda: self._ordered(old), self.dense))
        if tokens == 1 and self._config.sliding_bits == 16 and returns_views:
            self.store.write(streams, self.record_past, total)
            key, value = self.store.in_use()
            # The one query sees every slot, so it takes the last place among them.
            return handles(SlidingView(self, key, value, None, self.store.places_in_use))
        # Gathered before the write: the chunk may push out what its first queries see.
        past_key, past_value, indices = self.store.history(tokens)
        key = torch.cat((past_key, key_states), dim=2)
        value = torch.cat((past_value, value_states), dim=2)
        self.store.write(streams, self.record_past, total)
        if not returns_views:
            return key, value
        return handles(SlidingView(self, key, value, self.window, lambda: indices))

    def steps_on_device(self) -> bool:
        """Whether decode steps find what they read by lengths on the device."""
        return self._in_one_pass(self.store.empty.new_empty(1, 1, 1, self.store.empty.shape[-1]))

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V [B, H, N, D] of what the next token sees, in order."""
        key, value, _ = self.store.history(0)
        return key, value

    def _in_one_pass(self, keys: torch.Tensor) -> bool:
        return serves(keys, 0, self.window)

    def _ordered(self, old: Exact) -> SlidingView:
        """The keys in order of a step that the ring holds already."""
        key, value, indices = self.store.with_old(old)
        return SlidingView(self, key, value, self.window, lambda: indices)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, index of the first key) of the next chunk."""
        length = self.get_seq_length()
        past = min(length, self.window - 1)
        return past + query_length, length - past

    def check_crop(self, length: int) -> None:
        """Raise unless the ring still holds what a query at `length` sees.

        Raises:
            CacheStateError: tokens that are needed again have been overwritten.
        """
        # A query at `length` sees itself and the window - 1 tokens before it.
        needed, kept = max(0, length - self.window + 1), 0
        if self.is_initialized:
            kept = self.store.first_kept
        if needed < kept:
            raise CacheStateError(
                f"going back from {self.get_seq_length()} to {length} tokens needs sliding-window "
                f"tokens from {needed} on, and those before {kept} are gone; use mark() and "
                "rewind()"
            )

    def crop_to(self, length: int) -> None:
        """Keep the first `length` tokens; see `check_crop`."""
        self.check_crop(length)
        if self.is_initialized:
            self.store.truncate(length)

    def save(self, device: torch.device | None = None) -> KeptRows | None:
        """What `restore` needs to come back here."""
        return self.store.save(device) if self.is_initialized else None

    def restore(self, state: object) -> None:
        """Return to a saved state that later tokens have only been added to."""
        if isinstance(state, KeptRows):
            self.store.restore(state)
        else:
            self.reset()

    def flush(self) -> None:
        """Copy, where a mark needs it, what the next step will overwrite."""
        if self.is_initialized:
            self.store.keep_leaving(1)

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """What `load` restores, views of the storage; `like` gives the model's dtype."""
        if not self.is_initialized:
            return {}
        return {"like": [self.store.empty], "ring": self.store.slots.rows()}

    def load(
        self, groups: dict[str, list[torch.Tensor]], length: int, device: torch.device
    ) -> None:
        """Restore what `tensors` gave, `length` tokens.

        Raises:
            SnapshotError: these are not the tensors of a sliding layer of this window.
        """
        self.reset()
        if not groups and not length:
            return
        like = groups.get("like", [])
        if set(groups) != {"like", "ring"} or len(like) != 1 or like[0].ndim != 4:
            raise SnapshotError(f"a sliding layer cannot be made of {sorted(groups)}")
        empty = like[0].to(device)
        # Shape, dtype and device are all that it takes of them.
        self.lazy_initialization(empty, empty)
        self.store.load(groups["ring"], length)
        if self.store.slots.length != self.window:
            raise SnapshotError(f"a ring has {self.store.slots.length} slots of {self.window}")
