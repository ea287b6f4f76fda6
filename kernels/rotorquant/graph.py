"""Decode steps as replays of one captured CUDA graph: some thousand launches become one.

What a replay cannot do happens between replays: pages are packed, lengths noted, room checked. What
a step reads and writes is found by lengths on the device (`buffers.py`, `ring.py`, `ops.decode`),
so one graph serves every step until storage moves; then the step is captured again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rotorquant.errors import ConfigError
from rotorquant.global_layer import GlobalLayer
from rotorquant.rewind import RewindableCache

__all__ = ["ReplayableCache", "StepGraph", "captured"]


class ReplayableCache(RewindableCache):
    """A cache whose decode steps can be replayed; the constructor is the subclass's."""

    def flush(self) -> None:
        """Pack the pages that are due, as the next step would."""
        for layer in self._storing:
            if isinstance(layer, GlobalLayer):
                layer.flush()

    def advance(self, tokens: int) -> None:
        """Take note of tokens that a replayed step is about to store.

        Raises:
            NonFiniteError, CacheStateError: as `update` does.
        """
        self._watch.begin(self.get_seq_length())
        self._check_whole()
        for layer in self._storing:
            layer.advance(tokens)
        if self._positions is not None:
            self._positions.advance(tokens)

    @property
    def settled(self) -> bool:
        """Whether a step of one token writes to its usual places and packs nothing."""
        layers = [layer for layer in self._storing if isinstance(layer, GlobalLayer)]
        return bool(self.get_seq_length()) and all(layer.settled for layer in layers)

    def addresses(self) -> tuple[int, ...]:
        """Where the storage lies."""
        tensors = [tensor for layer in self._storing for tensor in layer.storage()]
        if self._positions is not None:
            tensors += self._positions.tensors()
        return tuple(tensor.data_ptr() for tensor in tensors)


class StepGraph:
    """`model` on top of a cache, one token at a time: captured once, then replayed.

    The first steps run as they are, until the cache has settled. Between two calls the cache may be
    used in every other way.

    Args:
        model: a transformers decoder.
        cache: of the model, with `max_tokens`, so that its storage stays where it is.
        capture: runs a step once and returns what runs it again.

    Raises:
        ConfigError: the cache has no `max_tokens`, or packs in every step.
    """

    def __init__(
        self,
        model: Any,
        cache: Any,
        capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ) -> None:
        if cache.config.max_tokens is None or cache.config.defer == "none":
            raise ConfigError("a captured step needs a cache with max_tokens, and not defer='none'")
        self._model, self._cache = model, cache
        self._capture = captured if capture is None else capture
        self._replay: Callable[[], None] | None = None
        self._addresses: tuple[int, ...] = ()
        self._tokens = torch.zeros(0, 0)
        self._logits = self._tokens

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, vocabulary] after tokens [B, 1]; the next call overwrites them."""
        cache, length = self._cache, self._cache.get_seq_length()
        if self._tokens.shape != tokens.shape:
            self._tokens, self._replay = tokens.clone(), None
            self._places = torch.zeros_like(tokens)
        self._tokens.copy_(tokens)
        self._places.fill_(length)
        cache.flush()
        addresses = cache.addresses()
        stays, self._addresses = addresses == self._addresses, addresses
        if stays and self._replay is not None and length < cache.config.max_tokens:
            cache.advance(1)
            self._replay()
        elif stays and cache.settled and length < cache.config.max_tokens:
            self._replay = self._capture(self._step)
        else:
            self._replay = None
            self._step()
        return self._logits

    @torch.no_grad()
    def _step(self) -> None:
        output = self._model(
            self._tokens,
            position_ids=self._places,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._logits = output.logits[:, -1]


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Capture a step as a CUDA graph and run it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    replay: Callable[[], None] = graph.replay
    return replay
