"""The cache: one layer record per decoder layer, and what concerns all of them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from rotorquant.anatomy import LayerShape, read_anatomy
from rotorquant.attention import ATTENTION_NAME, register
from rotorquant.config import RotorQuantConfig
from rotorquant.errors import CacheStateError
from rotorquant.global_layer import GlobalLayer, GlobalState
from rotorquant.images import follow_images
from rotorquant.positions import PositionLog
from rotorquant.sliding_layer import SlidingLayer, SlidingState

__all__ = ["Mark", "RotorQuantCache"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Mark:
    """A place to come back to, from `RotorQuantCache.mark`.

    Attributes:
        length: tokens at that place.
        states: what each storing layer needs: copies of its window or exact latest tokens.
    """

    length: int
    states: tuple[GlobalState | SlidingState | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return sum(
            rows.nbytes
            for state in self.states
            if state is not None
            for rows in (state.ring if isinstance(state, SlidingState) else state.tail)
        )


class SharedLayer(CacheLayerMixin):
    """A layer that reads another layer's keys and values: it stores nothing."""

    is_croppable = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to allocate."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Never called by a model that shares keys and values."""
        raise CacheStateError("this layer shares another layer's keys and values")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As if it were empty."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """No tokens of its own."""
        return 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def reset(self) -> None:
        """Nothing to forget."""

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing to remove."""


class RotorQuantCache(Cache):
    """A key-value cache with packed global layers, for `model.generate(past_key_values=cache)`.

    The constructor sets the model's text attention to `rotorquant`; then `update` returns views
    that this attention reads in place. A model set back to `sdpa` or `eager` gets dequantized
    tensors.

    Args:
        model: a transformers decoder (Gemma 4 with or without pictures, Llama and the like).
        bits, mode, sink_tokens, recent_tokens, sliding_bits, max_tokens, page_tokens, seed: see
            `RotorQuantConfig`.

    Raises:
        ConfigError: an option is out of range.
        UnsupportedModelError: the model cannot be served; the sentence says why.
    """

    def __init__(
        self,
        model: Any,
        bits: int = 4,
        mode: str = "planar",
        sink_tokens: int = 64,
        recent_tokens: int = 512,
        sliding_bits: int = 16,
        max_tokens: int | None = None,
        *,
        page_tokens: int = 64,
        seed: int = 42,
    ) -> None:
        self.config = RotorQuantConfig(
            bits, mode, sink_tokens, recent_tokens, sliding_bits, max_tokens, page_tokens, seed
        )
        anatomy = read_anatomy(model)
        self._model_config = anatomy.config
        tied = any(shape.tie is not None for shape in anatomy.layers)
        rotary = anatomy.rotary
        self._positions = PositionLog(rotary, max_tokens) if tied and rotary is not None else None
        self._marks: weakref.WeakSet[Mark] = weakref.WeakSet()
        register()
        anatomy.config._attn_implementation = ATTENTION_NAME
        if anatomy.image_host is not None:
            follow_images(anatomy.image_host)
        super().__init__(layers=[self._make_layer(shape) for shape in anatomy.layers])
        self._storing = [
            layer for layer in self.layers if isinstance(layer, (GlobalLayer, SlidingLayer))
        ]

    @classmethod
    def from_config(cls, model: Any, config: RotorQuantConfig) -> RotorQuantCache:
        """The same from a record of options."""
        return cls(model, **asdict(config))

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors of the cache occupy, unused room included, marks not."""
        log = 0 if self._positions is None else self._positions.nbytes
        return log + sum(layer.nbytes for layer in self._storing)

    @property
    def packed_tokens(self) -> int:
        """Tokens that global layers hold packed."""
        layers = [layer for layer in self._storing if isinstance(layer, GlobalLayer)]
        return max((layer.packed_tokens for layer in layers), default=0)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """Store a chunk of layer `layer_idx`, [B, kv_heads, T, D] each.

        Returns:
            Under `rotorquant` attention the layer's view, twice; else K and V of all tokens that
            the chunk can see, dequantized.

        Raises:
            NonFiniteError: the chunk holds NaN or infinity.
            CapacityError: it exceeds `max_tokens`.
            CacheStateError: another batch size, unknown positions, or an earlier forward pass broke
                off half way; `rewind` and `reset` mend the last.
        """
        layer = self.layers[layer_idx]
        if layer is self._storing[0]:
            lengths = {layer.get_seq_length() for layer in self._storing}
            if len(lengths) > 1:
                raise CacheStateError(
                    f"a forward pass broke off, so layers hold {min(lengths)} to {max(lengths)} "
                    "tokens; rewind() to a mark, crop_to() the smaller number, or reset()"
                )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def reset(self) -> None:
        """Forget all tokens, give the memory back and void all marks."""
        for layer in self._storing:
            layer.reset()
        self._marks.clear()
        if self._positions is not None:
            self._positions.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end: -3 removes three, as in transformers.

        Raises:
            CacheStateError: the number is positive, or a sliding window would need tokens that it
                has overwritten; nothing is removed then.
        """
        if tokens_to_remove > 0:
            raise CacheStateError(
                f"crop({tokens_to_remove}) has no meaning; crop(-n) removes n tokens, and "
                "crop_to(n) keeps n"
            )
        self.crop_to(max(0, self.get_seq_length() + tokens_to_remove))

    def crop_to(self, length: int) -> None:
        """Keep the first `length` tokens; raises as `crop` does."""
        if length < 0:
            raise CacheStateError(f"crop_to({length}) has no meaning; a length is 0 or more")
        for layer in self._storing:
            if isinstance(layer, SlidingLayer):
                layer.check_crop(length)
        for layer in self._storing:
            layer.crop_to(length)
        self._forget_from(length)

    def mark(self) -> Mark:
        """Remember this place, sliding windows and exact latest tokens included.

        It costs one copy of those (`Mark.nbytes`) for as long as the mark is kept.
        """
        states = tuple(layer.save() for layer in self._storing)
        mark = Mark(self.get_seq_length(), states)
        self._marks.add(mark)
        return mark

    def rewind(self, mark: Mark) -> None:
        """Return to a mark, bit for bit. A mark can be used again.

        Raises:
            CacheStateError: the mark is of another cache, or the cache has meanwhile gone back to
                before it.
        """
        if mark not in self._marks:
            raise CacheStateError(
                f"the mark at {mark.length} tokens does not hold any more: it is of another cache, "
                "or this one has been reset, reordered or taken back to before it"
            )
        for layer, state in zip(self._storing, mark.states, strict=True):
            layer.restore(state)
        self._forget_from(mark.length)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Beam search: row b becomes what row beam_idx[b] was."""
        self._select_batch(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch `repeats` times."""
        self._select_batch(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows `indices` of the batch."""
        self._select_batch(lambda rows: rows[indices.to(rows.device)])

    def _select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for layer in self._storing:
            layer.select_batch(change)
        if self._positions is not None:
            self._positions.select_batch(change)
        self._marks.clear()

    def _forget_from(self, length: int) -> None:
        if self._positions is not None:
            self._positions.truncate(length)
            if length == 0:
                self._positions.reset()
        for mark in list(self._marks):
            if mark.length > length:
                self._marks.discard(mark)

    def _make_layer(self, shape: LayerShape) -> CacheLayerMixin:
        config = self._model_config

        def hands_views() -> bool:
            return str(config._attn_implementation) == ATTENTION_NAME

        if shape.kind == "shared":
            return SharedLayer()  # type: ignore[no-untyped-call]
        if shape.kind == "sliding" and shape.window is not None:
            return SlidingLayer(self.config, shape.window, hands_views)
        positions = self._positions if shape.kind == "tied" else None
        return GlobalLayer(self.config, shape.tie, positions, hands_views)
