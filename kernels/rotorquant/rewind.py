"""Going back: crop, reset, marks, and changes of the batch, over all layers of a cache."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache

from rotorquant.errors import CacheStateError
from rotorquant.global_layer import GlobalLayer, GlobalState
from rotorquant.positions import PositionLog
from rotorquant.sliding_layer import SlidingLayer, SlidingState
from rotorquant.watch import FiniteWatch

__all__ = ["Mark", "RewindableCache"]


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


class RewindableCache(Cache):
    """A cache whose storing layers go back together; the constructor is the subclass's."""

    _storing: list[GlobalLayer | SlidingLayer]
    _positions: PositionLog | None
    _marks: weakref.WeakSet[Mark]
    _watch: FiniteWatch

    def reset(self) -> None:
        """Forget all tokens, give the memory back, void all marks and stop recording."""
        for layer in self._storing:
            layer.reset()
            layer.record_past = False
        self._marks.clear()
        self._watch.back_to(0)
        if self._positions is not None:
            self._positions.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end: -3 removes three, as in transformers.

        Raises:
            CacheStateError: the number is positive, or a sliding window would need tokens that it
                has overwritten; nothing is removed then.
        """
        tokens_to_remove = int(tokens_to_remove)  # transformers 5.17 hands over a tensor
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

    def activate_past_recording(self) -> None:
        """Let every pass be undone by a crop of up to a window, as assisted decoding asks.

        Sliding windows then keep what leaves them until the next crop, and a deferred prompt is
        packed by the pass after it, whatever its length. It ends with `reset`.
        """
        for layer in self._storing:
            layer.activate_past_recording()

    def mark(self, device: torch.device | str | None = None) -> Mark:
        """Remember this place, sliding windows and exact latest tokens included.

        It costs one copy of those (`Mark.nbytes`) for as long as the mark is kept: on `device`,
        such as "cpu", or where the cache is.

        Raises:
            CacheStateError, NonFiniteError: this is no place to come back to.
        """
        self._check_sound()
        place = None if device is None else torch.device(device)
        states = tuple(layer.save(place) for layer in self._storing)
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

    def _check_sound(self) -> None:
        """Raise unless all layers hold the same number of tokens, all of them finite."""
        self._watch.verify()
        self._check_whole()

    def _check_whole(self) -> None:
        """Raise unless all layers hold the same number of tokens."""
        lengths = {layer.get_seq_length() for layer in self._storing}
        if len(lengths) > 1:
            raise CacheStateError(
                f"a forward pass broke off, so layers hold {min(lengths)} to {max(lengths)} "
                "tokens; rewind() to a mark, crop_to() the smaller number, or reset()"
            )

    def _forget_from(self, length: int) -> None:
        self._watch.back_to(length)
        if self._positions is not None:
            self._positions.truncate(length)
            if length == 0:
                self._positions.reset()
        for mark in list(self._marks):
            if mark.length > length:
                self._marks.discard(mark)
