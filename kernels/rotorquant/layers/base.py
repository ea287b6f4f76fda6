"""What the layers that store something have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch
from transformers.cache_utils import CacheLayerMixin

from rotorquant.config import RotorQuantConfig
from rotorquant.exceptions import CacheStateError
from rotorquant.layers.finite_check import LayerContext

__all__ = ["SharedLayer", "StoringLayer", "TokenStore"]


class SharedLayer(CacheLayerMixin):
    """A layer that reads another layer's keys and values: it stores nothing."""

    is_croppable = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: there is nothing to allocate."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Never called by a model that shares keys and values."""
        raise CacheStateError("this layer shares another layer's keys and values")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys, index of the first key) of an empty layer."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """0: it has no tokens of its own."""
        return 0

    def get_max_length(self) -> int:
        """-1: there is no maximum."""
        return -1

    def reset(self) -> None:
        """Do nothing: there is nothing to forget."""

    def crop(self, tokens_to_remove: int) -> None:
        """Do nothing: there is nothing to remove."""


class TokenStore(Protocol):
    """The tokens of a layer: `length` of them, in `nbytes`."""

    @property
    def length(self) -> int:
        """Tokens stored."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that they occupy, unused capacity included."""
        ...

    def storage(self) -> list[torch.Tensor]:
        """The tensors that hold them, unused capacity included, and the counts of them."""
        ...

    def advance(self, tokens: int) -> None:
        """Count tokens that a replayed step has added on the device."""
        ...

    def retract(self, length: int) -> None:
        """Count `length` tokens again: the last step was not stored."""
        ...

    def select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace the batch dimension of everything stored as `change` does."""
        ...

    def release(self) -> None:
        """Give the memory back; the store cannot be used any more."""
        ...


Store = TypeVar("Store", bound=TokenStore)


class StoringLayer(CacheLayerMixin, Generic[Store]):
    """A cache layer around a store, which the first chunk makes (`lazy_initialization`).

    Args:
        config: the cache's options.
        context: what the layers share.
    """

    is_croppable = True  # sliding windows after `activate_past_recording`
    store: Store

    def __init__(self, config: RotorQuantConfig, context: LayerContext) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._config = config
        self._context = context
        self.record_past = False

    def activate_past_recording(self) -> None:
        """Assisted decoding has begun, whose steps have several tokens and are undone by crops."""
        self.record_past = True

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.store.length if self.is_initialized else 0

    def get_max_length(self) -> int:
        """`max_tokens`, or -1 for none."""
        return self._config.max_tokens or -1

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tokens, unused capacity included."""
        return self.store.nbytes if self.is_initialized else 0

    def storage(self) -> list[torch.Tensor]:
        """The tensors that hold the tokens, unused capacity included, and the counts of them."""
        return self.store.storage() if self.is_initialized else []

    def advance(self, tokens: int) -> None:
        """Count tokens that a replayed step has stored."""
        self.store.advance(tokens)

    def retract(self, length: int) -> None:
        """Count `length` tokens again: the last step was not stored."""
        self.store.retract(length)

    @abstractmethod
    def steps_on_device(self) -> bool:
        """Whether decode steps find what they read by lengths on the device."""

    def reset(self) -> None:
        """Forget all tokens and give the memory back."""
        if self.is_initialized:
            self.store.release()
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """Remove -tokens_to_remove tokens from the end; raises as `crop_to` does."""
        self.crop_to(max(0, self.get_seq_length() - abs(tokens_to_remove)))

    @abstractmethod
    def crop_to(self, length: int) -> None:
        """Keep the first `length` tokens."""

    def select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace the batch dimension of everything stored as `change` does."""
        if self.is_initialized:
            self.store.select_batch(change)
