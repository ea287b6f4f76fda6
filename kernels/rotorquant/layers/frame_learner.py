"""What a layer learns of its rows before it packs them: once, and again from a long prompt.

Frames are written into the tables that the codecs have from the beginning, so that a captured step
reads them where it has always read. A mark leads back to the frames that were in use when it was
made: what a later lesson replaces is kept for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rotorquant.attend.tied_key import TiedKey
from rotorquant.calibration.own_frame import QuerySquares, own_frames
from rotorquant.codec.codec import Frame
from rotorquant.layers.packed_buffer import PackedBuffer
from rotorquant.layout import LEARNING_TOKENS

__all__ = ["FrameLearner", "Learned", "Lesson"]

LEAST_ROWS = 64
_REREAD_TOKENS = 4096
_QUERIES = 512  # seen of a prompt; more do not move their mean


@dataclass(slots=True, eq=False)
class Lesson:
    """The frames of a layer from one time that it learned to the next.

    Attributes:
        rows: learned from; 0 for none.
        queries: that told what errors cost, on the host.
        frames, packed: what the codecs and the packed rows were when another lesson came.
    """

    rows: int = 0
    queries: QuerySquares = QuerySquares()
    frames: tuple[Frame, ...] = ()
    packed: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What a mark keeps of a learner, `queries` on the host."""

    lesson: Lesson
    queries: QuerySquares


class FrameLearner:
    """Fits the codecs of a layer to its rows.

    Args:
        tie: of a layer that stores V alone.
        pairs: rotary pairs that frames keep as pairs.
    """

    def __init__(self, tie: TiedKey | None, pairs: int) -> None:
        self._tie, self._pairs = tie, pairs
        self._lesson, self._queries = Lesson(), QuerySquares()
        self._saved = self._queries, self._queries  # and its copy

    @property
    def rows(self) -> int:
        """How many rows the frames are learned from; 0 for none."""
        return self._lesson.rows

    def waits(self, due_tokens: int) -> bool:
        """Whether a prompt stays exact with so many tokens due: many rows tell more than few."""
        return not self.rows and due_tokens <= LEARNING_TOKENS

    def see(self, query: torch.Tensor, scaling: float, heads: int) -> None:
        """Take in queries of a chunk [B, query heads, T, D] of `heads` KV heads."""
        if self.rows < LEARNING_TOKENS and self._queries.tokens < _QUERIES:
            self._queries = self._queries.plus(query, scaling, heads)

    def learn(self, packed: PackedBuffer, streams: Sequence[torch.Tensor]) -> bool:
        """Take frames from rows [B, H, N, D] that are about to be packed, if they are better.

        Few rows give way to a long prompt; what is packed moves to its frames.
        """
        count, known = streams[0].shape[0] * streams[0].shape[2], self.rows
        if packed.length == 0:
            wanted = LEAST_ROWS
        elif known < LEARNING_TOKENS:
            wanted = max(LEARNING_TOKENS, packed.length)
        else:
            return False
        if count < wanted:
            return self.forget_rows(packed)
        frames = self._frames(streams)
        if packed.length:
            self._lesson.frames = packed.frames()
            self._lesson.packed = [rows.clone() for rows in packed.rows()]
        packed.take(frames)
        # On the device their memory is free until a later prompt asks
        self._lesson = Lesson(count, self._queries.on_host())
        self._queries = QuerySquares()
        return True

    def frames_for(self, packed: PackedBuffer) -> tuple[Frame, ...]:
        """The frames of codecs that `packed` is about to move to; they may be learned from it."""
        if self.rows:
            return packed.frames()
        if packed.length < LEAST_ROWS:
            return ()
        count = min(packed.length, _REREAD_TOKENS)
        pairs = zip(packed.codecs, packed.streams(0, count), strict=True)
        streams = [codec.decode(rows) for codec, rows in pairs]
        self._lesson = Lesson(streams[0].shape[0] * streams[0].shape[2])
        return self._frames(streams)

    def forget_rows(self, packed: PackedBuffer) -> bool:
        """As before the first lesson where nothing is packed any more."""
        if not self.rows or packed.length:
            return False
        packed.take(())
        self._lesson, self._queries = Lesson(), self._lesson.queries
        return True

    def reset(self, packed: PackedBuffer) -> None:
        """Forget everything; `packed` is empty."""
        self.forget_rows(packed)
        self._queries = QuerySquares()

    def save(self) -> Learned:
        """What `restore` needs to come back."""
        if self._saved[0] is not self._queries:  # marks with the same queries share a copy
            self._saved = self._queries, self._queries.on_host()
        return Learned(self._lesson, self._saved[1])

    def restore(self, state: Learned, packed: PackedBuffer) -> bool:
        """Frames and queries of a mark, behind which `packed` has no more rows."""
        changed = self._restore_frames(state.lesson, packed)
        self._queries = state.queries
        return changed

    def _restore_frames(self, kept: Lesson, packed: PackedBuffer) -> bool:
        rows = packed.rows()
        # After a repack rows have another form, and stay in the frames that they have moved to.
        same = [each.shape[3:] for each in rows] == [each.shape[3:] for each in kept.packed]
        if kept is self._lesson or packed.length == 0 or not same:
            return self.forget_rows(packed)
        packed.take(kept.frames, moves=False)
        for each, old in zip(rows, kept.packed, strict=True):
            each.copy_(old.narrow(2, 0, packed.length))
        self._lesson = kept
        return True

    def tensors(self) -> list[torch.Tensor]:
        """What `load` takes."""
        return [torch.tensor([self.rows]), *self._queries.tensors()]

    def load(self, tensors: Sequence[torch.Tensor]) -> None:
        """Go on from what `tensors` gave."""
        self._lesson = Lesson(int(tensors[0]))
        self._queries = QuerySquares.of(tensors[1:])

    def _frames(self, streams: Sequence[torch.Tensor]) -> tuple[Frame, ...]:
        _, heads, _, size = streams[0].shape
        device = streams[0].device
        with torch.inference_mode(False), torch.no_grad():
            return own_frames(
                streams,
                self._queries.mean(heads, size, device),
                pairs=self._pairs,
                norm=None if self._tie is None else self._tie.weight(device),
            )
