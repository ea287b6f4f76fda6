"""What a global layer stores: exact first tokens, packed middle, exact latest tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from rotorquant.codec.codec import Codec, Frame
from rotorquant.codec.make_codec import make_codec
from rotorquant.config import RotorQuantConfig
from rotorquant.layers.buffers import STEP_TOKENS, Meter, TokenBuffer, counters
from rotorquant.layers.frame_learner import Learned
from rotorquant.layers.kept_rows import KeptRows, RowKeeper
from rotorquant.layers.packed_buffer import PackedBuffer
from rotorquant.ops.append import Look

__all__ = ["CodecMaker", "GlobalState", "GlobalStore"]


class GlobalState(NamedTuple):
    """What `GlobalStore.save` returns: token counts, and the exact latest tokens.

    `learned` is the layer's: the frames that its packed rows are read by.
    """

    sink: int
    packed: int
    tail: KeptRows
    learned: Learned | None = None


class CodecMaker:
    """Makes the codecs of a layer's streams, each once.

    Args:
        pairs: rotary pairs of a layer that stores V alone; None where K and V are stored.
        frames: of every stream, or none.
        heads: of a layer that learns other frames later, or None.
    """

    def __init__(
        self, pairs: int | None, frames: Sequence[Frame], heads: int | None = None
    ) -> None:
        self.frames, self.heads = tuple(frames), heads
        self._pairs = pairs
        self._codecs: dict[tuple[int, int], Codec] = {}

    def make(self, config: RotorQuantConfig, head_dim: int, device: torch.device) -> list[Codec]:
        """The codec of every stream; one of a width that there is already is kept."""
        keys = list(enumerate(config.stream_bits(tied=self._pairs is not None)))
        with torch.inference_mode(False):
            for stream, bits in set(keys) - set(self._codecs):
                frame = self.frames[stream] if self.frames else None
                given = config, stream, self._pairs, head_dim, device, frame, self.heads
                codec = make_codec(*given)
                self._codecs[stream, bits] = codec
        self._codecs = {key: self._codecs[key] for key in keys}
        return list(self._codecs.values())


class GlobalStore:
    """The tokens of one layer, in one stream or two.

    Args:
        config: the cache's options.
        codecs: of every stream.
        like: a tensor [B, H, any, D] per stream: shape without tokens, dtype and device.
        meter: of the cache.

    Attributes:
        counts: [3] int64 on the device: first, packed and latest tokens.
    """

    def __init__(
        self,
        config: RotorQuantConfig,
        codecs: Sequence[Codec],
        like: Sequence[torch.Tensor],
        meter: Meter,
    ) -> None:
        self._config = config
        self.counts = counters(3, like[0].device)
        # Views of one tensor, in the order in which the decode kernel reads it.
        sink, packed, tail = self.counts.split(1)
        self.sink = TokenBuffer(like, config.sink_tokens, meter, sink)
        self.packed = PackedBuffer(codecs, like, self._packed_capacity, meter, packed)
        self.tail = TokenBuffer(like, self._tail_tokens, meter, tail)
        self._keeper = RowKeeper()

    @property
    def length(self) -> int:
        """Tokens stored."""
        return self.sink.length + self.packed.length + self.tail.length

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tokens, unused capacity included."""
        return self.sink.nbytes + self.packed.nbytes + self.tail.nbytes

    @property
    def span(self) -> tuple[int, int]:
        """First packed token, and the one behind the last."""
        return self.sink.length, self.sink.length + self.packed.length

    @property
    def buffers(self) -> dict[str, TokenBuffer]:
        """The buffers by name, in the order of the sequence."""
        return {"sink": self.sink, "packed": self.packed, "tail": self.tail}

    def exact(self) -> list[torch.Tensor]:
        """Every stream [B, H, n, D] of the tokens that are not packed, in order."""
        pairs = zip(self.sink.rows(), self.tail.rows(), strict=True)
        return [torch.cat(pair, dim=2) for pair in pairs]

    @property
    def due_tokens(self) -> int:
        """Tokens in whole pages that have left the exact window, and are to be packed."""
        old = self.tail.length - self._recent_tokens
        # Whole pages, so that packing is rare and launches are few
        return max(0, old - old % self._page_tokens)

    def pack_old(self) -> None:
        """Pack the whole pages that have left the exact window."""
        old, (_, start) = self.due_tokens, self.span
        if old:
            if start + old > self._keeper.due_from:
                self._keeper.keep(start + old, self._tail_from)
            packed = self.packed.length
            try:
                self.packed.pack(self.tail.rows(0, old))
                self.tail.drop_front(old)
            except BaseException:  # a mark finds its rows by where the tail begins
                self.packed.length = packed
                raise

    def storage(self) -> list[torch.Tensor]:
        """The tensors that hold the tokens, unused capacity included, and their counts."""
        buffers = self.buffers.values()
        return [self.counts, *(tensor for buffer in buffers for tensor in buffer.whole())]

    def advance(self, tokens: int) -> None:
        """Count tokens that a replayed step has added on the device."""
        self._growing.advance(tokens)

    def retract(self, length: int) -> None:
        """Count `length` tokens again: the last step was not stored."""
        # From the end: while the tail holds tokens, the last ones are there.
        for buffer in (self.tail, self.sink):
            buffer.advance(-min(buffer.length, self.length - length))

    @property
    def next_place(self) -> str | None:
        """The buffer that one more token goes to; None where it moves or packs something."""
        # The same bounds as in `keep`: outside them a token reallocates the tail.
        fits = self.tail.length < self.tail.capacity <= self._tail_tokens + STEP_TOKENS
        due = self.tail.length - self._recent_tokens >= self._page_tokens
        names = {id(buffer): name for name, buffer in self.buffers.items()}
        return names[id(self._growing)] if fits and not due else None

    def keep(
        self, streams: list[torch.Tensor], more_to_come: bool, look: Look | None = None
    ) -> None:
        """Store new tokens exactly: first in the sink, then in the tail.

        With `more_to_come` the tail grows in large steps, as more chunks follow that stay exact.
        """
        tokens = streams[0].shape[2]
        first = min(tokens, self._config.sink_tokens - self.sink.length)
        self.sink.append([stream[:, :, :first] for stream in streams], _cut(look, slice(first)))
        needed = self.tail.length + tokens - first
        # After a prompt the tail is cut back to what decode steps need.
        if more_to_come:
            self.tail.reserve(tokens - first)
        elif not needed <= self.tail.capacity <= self._tail_tokens + STEP_TOKENS:
            self.tail.resize(max(self._tail_tokens, needed))
        rest = slice(first, None)
        self.tail.append([stream[:, :, rest] for stream in streams], _cut(look, rest))

    def repack(self, config: RotorQuantConfig, codecs: Sequence[Codec]) -> None:
        """Pack the packed tokens again with other codecs."""
        self._config = config
        if tuple(codecs) != self.packed.codecs:
            # The new pages are filled before the old ones go: this layer is in memory twice.
            old, like = self.packed, self.sink.rows(0, 0)
            self.packed = old.repacked(codecs, like, self._packed_capacity)
            tokens = self.packed.length
            old.release()
            self.packed.length = tokens  # the two share their count

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        self._keeper.forget(length)
        for buffer in self.buffers.values():
            buffer.truncate(length)
            length -= buffer.length

    def save(self, device: torch.device | None) -> GlobalState:
        """What `restore` needs to come back here; packed tokens are not copied."""
        (_, start), place = self.span, device or self.counts.device
        tail = self._keeper.mark(start, self.length, place)
        return GlobalState(self.sink.length, self.packed.length, tail)

    def restore(self, state: GlobalState) -> None:
        """Return to a saved state that later tokens have only been added to."""
        kept, (_, start) = state.tail, self.span
        self._keeper.forget(kept.length)
        self.sink.truncate(state.sink)
        self.packed.truncate(state.packed)
        self.tail.truncate(max(0, kept.length - start))
        # What has meanwhile been packed comes before what is still there.
        still = [rows.clone() for rows in self.tail.rows()] if start > kept.first else []
        if still:
            self.tail.truncate(0)
        self.tail.resize(max(self._tail_tokens, kept.length - kept.first))
        if still:
            for block in kept.cuts(kept.first, min(start, kept.length)):
                self.tail.append(block.rows)
            self.tail.append(still)

    def select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace the batch dimension of everything stored as `change` does."""
        for buffer in self.buffers.values():
            buffer.select_batch(change)
        self._keeper.forget()

    def release(self) -> None:
        """Give the memory back; the store cannot be used any more."""
        for buffer in self.buffers.values():
            buffer.release()

    def _tail_from(self, low: int, high: int) -> list[torch.Tensor]:
        """Views of the exact tokens `low` to `high` of the sequence."""
        _, start = self.span
        return self.tail.rows(low - start, high - start)

    @property
    def _growing(self) -> TokenBuffer:
        return self.sink if self.sink.length < self._config.sink_tokens else self.tail

    @property
    def _recent_tokens(self) -> int:
        return 0 if self._config.defer == "none" else self._config.recent_tokens

    @property
    def _page_tokens(self) -> int:
        return 1 if self._config.defer == "none" else self._config.page_tokens

    @property
    def _tail_tokens(self) -> int:
        return self._recent_tokens + self._page_tokens

    @property
    def _packed_capacity(self) -> int:
        """Packed tokens to allocate at once."""
        limit = self._config.max_tokens or 0
        return max(0, limit - self._config.sink_tokens - self._recent_tokens)


def _cut(look: Look | None, tokens: slice) -> Look | None:
    """The same for some of the tokens."""
    if look is None or look.also is None:
        return look
    return look._replace(also=look.also[:, :, tokens])
