"""A layer that stores nothing, because it reads what another layer stores."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from rotorquant.errors import CacheStateError

__all__ = ["SharedLayer"]


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
