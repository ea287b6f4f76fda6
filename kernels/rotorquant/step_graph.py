"""Decode steps as replays of one captured CUDA graph: some thousand launches become one.

What a replay cannot do happens between replays: pages are packed, lengths noted, room checked. What
a step reads and writes is found by lengths on the device (`buffers.py`, `ring.py`, `ops.decode`),
so one graph serves every step until storage moves; then the step is captured again.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch

from rotorquant.exceptions import CaptureError, ConfigError

__all__ = ["CudaRecorder", "Recorder", "StepGraph"]

_REHEARSALS = 3  # so many steps that wait for the device, and none is captured


class Recorder(Protocol):
    """Makes replays of steps."""

    def rehearse(self, step: Callable[[], None]) -> bool:
        """Run a step as it is; whether it can be recorded, as far as one can see."""
        ...

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """What runs a step on the device, which is called once here and does not run there."""
        ...


class CudaRecorder:
    """Records steps as CUDA graphs."""

    def rehearse(self, step: Callable[[], None]) -> bool:
        """See `Recorder`: a step in which the host waits for the device cannot be recorded.

        A capture would fail, too, but leave torch's allocator in the middle of it.
        """
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return not any("called a synchronizing" in str(each.message) for each in heard)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder`."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own behind
        replay: Callable[[], None] = graph.replay
        return replay


class StepGraph:
    """Steps of one token on top of a cache: captured once, then replayed.

    The first step runs as it is, and so does one that moves storage. Between two calls the cache
    may be used in every other way.

    Args:
        step: runs a decoder on tokens [B, 1] at positions [B, 1] on top of the cache, and returns
            its logits [B, vocabulary]. It may take nothing else that changes from Python.
        cache: a `RotorQuantCache` with `max_tokens`, so that its storage stays where it is.
        recorder: of steps; CUDA graphs by default.

    Raises:
        ConfigError: the cache has no `max_tokens`, or packs in every step.
    """

    def __init__(
        self,
        step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        cache: Any,
        recorder: Recorder | None = None,
    ) -> None:
        if cache.config.max_tokens is None or cache.config.defer == "none":
            raise ConfigError("a captured step needs a cache with max_tokens, and not defer='none'")
        self._run, self._cache = step, cache
        self._recorder = CudaRecorder() if recorder is None else recorder
        self._replay: Callable[[], None] | None = None
        self._storage: list[weakref.ref[torch.Tensor]] = []
        self._places: tuple[str | None, ...] = ()
        self._failed_rehearsals, self._rehearsed = 0, False
        self._tokens = torch.zeros(0, 0)
        self._logits = self._tokens

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [B, vocabulary] after tokens [B, 1]; the next call overwrites them.

        Raises:
            CaptureError: the step cannot be captured. The cache is as it was before the call, and
                steps that are not captured go on from there.
        """
        with torch.cuda.device_of(tokens):
            self._advance(tokens)
        return self._logits

    def _advance(self, tokens: torch.Tensor) -> None:
        cache, length = self._cache, self._cache.get_seq_length()
        if self._tokens.shape != tokens.shape:
            self._tokens, self._replay = tokens.clone(), None
            self._positions = torch.zeros_like(tokens)
        self._tokens.copy_(tokens)
        self._positions.fill_(length)
        cache.flush()
        places = cache.next_places if length < cache.config.max_tokens else (None,)
        stays = self._stays() and None not in places
        if stays and self._replay is not None and places == self._places:
            cache.advance(1)
            self._replay()
        elif stays and self._rehearsed:
            self._replay, self._places = self._recorded(length), places
            self._replay()
        else:
            self._rehearse()

    def _stays(self) -> bool:
        """Whether the cache has the very tensors that it had at the last call.

        Not tensors at the same addresses: those of released ones are given out again.
        """
        storage = self._cache.storage()
        same = len(storage) == len(self._storage) and all(
            known() is tensor for known, tensor in zip(self._storage, storage, strict=True)
        )
        if not same:
            self._storage = [weakref.ref(tensor) for tensor in storage]
        return same

    def _rehearse(self) -> None:
        if self._cache.get_seq_length() and not self._cache.reads_on_device:
            raise CaptureError("no kernel reads the cache as it is")
        if self._failed_rehearsals == _REHEARSALS:
            raise CaptureError("the host waits for the device in every step")
        self._replay = None
        self._rehearsed = self._recorder.rehearse(self._step)
        self._failed_rehearsals += not self._rehearsed

    def _recorded(self, length: int) -> Callable[[], None]:
        try:
            return self._recorder.record(self._step)
        except BaseException as error:  # what was stored on the host's side alone, goes
            self._cache.retract(length)
            if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
                raise CaptureError(str(error).partition("\n")[0]) from error
            raise

    @torch.no_grad()
    def _step(self) -> None:
        self._logits = self._run(self._tokens, self._positions)
