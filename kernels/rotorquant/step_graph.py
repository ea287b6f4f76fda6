"""Decode steps as replays of one captured CUDA graph: some thousand launches become one.

What a replay cannot do happens between replays: pages are packed, lengths are counted, and the
capacity is checked. A step finds what it reads and writes by lengths that lie on the device, so one
graph serves every step until the cache replaces a tensor; then the step is captured again.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Protocol

import torch

from rotorquant.config import RotorQuantConfig
from rotorquant.exceptions import CaptureError, ConfigError

__all__ = ["CudaRecorder", "Recorder", "StepCache", "StepGraph"]

_REHEARSALS = 3  # after so many steps that wait for the device none is tried any more


class StepCache(Protocol):
    """What a captured step needs of a cache; `RotorQuantCache` has it."""

    config: RotorQuantConfig

    def get_seq_length(self) -> int:
        """Tokens in the cache."""
        ...

    def storage(self) -> list[torch.Tensor]:
        """All tensors that a step reads or writes, and that the cache may replace by others."""
        ...

    @property
    def next_places(self) -> tuple[str | None, ...]:
        """The buffer that one more token goes to, per layer; None where tokens have to move."""
        ...

    @property
    def reads_on_device(self) -> bool:
        """Whether every layer finds what a step reads by lengths that lie on the device."""
        ...

    def flush(self) -> None:
        """Pack the pages that are due and keep what marks need, as the next step would."""
        ...

    def advance(self, tokens: int) -> None:
        """Count tokens that a replayed step is about to store; raises as `update` does."""
        ...

    def retract(self, length: int) -> None:
        """Count `length` tokens again: a captured step of one token has not run."""
        ...


class Recorder(Protocol):
    """Makes replays of steps."""

    def rehearse(self, step: Callable[[], None]) -> bool:
        """Run a step as it is, and say whether it can be recorded, as far as that can be seen."""
        ...

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Call a step once without running it on the device; the result runs it there."""
        ...


class CudaRecorder:
    """Records steps as CUDA graphs."""

    def rehearse(self, step: Callable[[], None]) -> bool:
        """Run a step as it is; False if the host waits for the device in it.

        A capture of such a step would fail, too, but it would leave torch's allocator in a state
        from which it does not recover.
        """
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        # torch tells of a wait in the text of a warning, and in no other way.
        return not any("called a synchronizing" in str(each.message) for each in caught)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Capture a step as a CUDA graph; the result replays it."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # In the default mode a CUDA call of another thread would break the capture, too.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                step()
        finally:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own stream current
        replay: Callable[[], None] = graph.replay
        return replay


class StepGraph:
    """Steps of one token on top of a cache: captured once, then replayed.

    The first step runs as it is, and so does one for which the cache moves its storage. Between two
    calls the cache may be used in every other way.

    Args:
        step: runs a decoder on tokens [B, 1] at positions [B, 1] on top of the cache, and returns
            its logits [B, vocabulary]. It may read nothing else that changes in Python.
        cache: a `RotorQuantCache` with `max_tokens`, so that its storage stays where it is.
        recorder: makes replays of steps; CUDA graphs by default.

    Raises:
        ConfigError: the cache has no `max_tokens`, or packs in every step.
    """

    def __init__(
        self,
        step: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        cache: StepCache,
        recorder: Recorder | None = None,
    ) -> None:
        max_tokens = cache.config.max_tokens
        if max_tokens is None or cache.config.defer == "none":
            raise ConfigError("a captured step needs a cache with max_tokens, and not defer='none'")
        self._run, self._cache, self._max_tokens = step, cache, max_tokens
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
        # Into the tensors whose addresses the graph has: it reads them at every replay.
        self._tokens.copy_(tokens)
        self._positions.fill_(length)
        # Before places are asked for: packing moves tokens, which no replay can do.
        cache.flush()
        # A full cache takes the plain way, where `update` refuses the token with a sentence.
        places = cache.next_places if length < self._max_tokens else (None,)
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
        except BaseException as error:  # the host has counted a token that the device never stored
            self._cache.retract(length)
            if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
                raise CaptureError(str(error).partition("\n")[0]) from error
            raise

    @torch.no_grad()
    def _step(self) -> None:
        self._logits = self._run(self._tokens, self._positions)
