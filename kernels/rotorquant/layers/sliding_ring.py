"""The last tokens of a sequence: token t lies in slot t mod window.

They are kept in 16 bits, or in 8 as codes and a scale for each vector (`ops.append`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from rotorquant.layers.buffers import STEP_TOKENS, Meter, TokenBuffer, counters
from rotorquant.layers.kept_rows import KeptRows, RowKeeper
from rotorquant.ops.append import Look, append, append_scaled, codes_of, note_finite
from rotorquant.ops.attend import Rows
from rotorquant.ops.decode import Exact

__all__ = ["Ring"]

_PAST_TOKENS = 64  # capacity that a crop keeps for the next drafts
# Copied for marks at once while tokens come one by one: few launches, and little in vain
_AHEAD_BYTES, _LEAST_AHEAD_TOKENS = 65_536, 4


class Ring:
    """K and V of the last `window` tokens.

    While the past is recorded, tokens that leave the ring are kept beside it until the next crop,
    the latest `window` of them.

    Args:
        like: [B, H, any, D] as K and V are: shape without tokens, dtype and device.
        window: slots.
        bits: 16 or 8.
        meter: of the cache.

    Attributes:
        window: slots.
        empty: [B, H, 0, D] in the model's dtype.
        slots: the stored tensors; all `window` slots count as in use.
        counts: [3] int64 on the device, the last of which is `length` (`ops.decode`).
    """

    def __init__(self, like: torch.Tensor, window: int, bits: int, meter: Meter) -> None:
        batch, heads, _, head_dim = like.shape
        with torch.inference_mode(False):
            self.empty = like.new_empty(batch, heads, 0, head_dim)
        # The first two stay 0: the decode kernel reads three, and a ring has one kind of token.
        self.counts = counters(3, like.device)
        self._count = self.counts[2:]
        self.length = self._first_kept = 0
        self._keeper = RowKeeper()
        self.window, self._bits = window, bits
        rows = self._encode([self.empty, self.empty])
        self.slots = TokenBuffer(rows, window, meter)
        self.slots.length = (
            window  # a ring has no end: which slots are in use follows from `length`
        )
        # Saved caches hold all slots, so unused ones must not be what happened to be in memory.
        for slot in self.slots.rows():
            slot.zero_()
        self._past = TokenBuffer(rows, 0, meter)

    @property
    def length(self) -> int:
        """Tokens of the sequence so far."""
        return self._length

    @length.setter
    def length(self, tokens: int) -> None:
        self._length = tokens
        self._count.fill_(tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of the slots and of the recorded past."""
        return self.slots.nbytes + self._past.nbytes

    @property
    def first_kept(self) -> int:
        """The first token that is still there, in a slot or recorded."""
        return self._first_kept - self._past.length

    def history(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """K and V of the last window - 1 tokens in order; indices also of `tokens` more."""
        # The query's own token takes the last place of its window.
        start = self.length - min(self.length, self.window - 1)
        indices = torch.arange(start, self.length + tokens, device=self.empty.device)
        places = indices[: self.length - start] % self.window
        key, value = self._decode([rows.index_select(2, places) for rows in self.slots.rows()])
        return key, value, indices

    def in_use(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of K and V of the slots in use (16 bits)."""
        key, value = self.slots.rows(0, min(self.length, self.window))
        return key, value

    def places_in_use(self) -> torch.Tensor:
        """Where in the sequence what lies in each slot in use stands."""
        places = torch.arange(min(self.length, self.window), device=self.empty.device)
        last = self.length - 1
        return last - (last - places) % self.window

    def write(
        self, streams: list[torch.Tensor], record: bool, total: torch.Tensor | None = None
    ) -> None:
        """Add tokens, K and V [B, H, T, D]; `record` keeps what they push out.

        NaN among the tokens of a step is noted in `total` [], if there is one.
        """
        tokens = streams[0].shape[2]
        self.keep_leaving(tokens)
        if record:
            self._record(streams)
        elif self._past.length:
            self._past.truncate(0)
        # Before anything is overwritten: a write that breaks off may have done half of it
        self._first_kept = max(self._first_kept, self.length + tokens - self.window)
        kept = min(tokens, self.window)
        latest = [stream.detach().narrow(2, tokens - kept, kept) for stream in streams]
        if tokens <= min(STEP_TOKENS, self.window):  # places from the device, for captured graphs
            put = append if self._bits == 16 else append_scaled
            put(self.slots.whole(), latest, self._count, None if total is None else Look(total))
            self.advance(tokens)
            return
        if total is not None:  # a step that is longer than the window
            note_finite(streams[0], streams[1], total)
        self._count.fill_(self.length + tokens)
        self.advance(tokens)
        places = torch.arange(self.length - kept, self.length, device=self.empty.device)
        for slots, rows in zip(self.slots.rows(), self._encode(latest), strict=True):
            slots.index_copy_(2, places % self.window, rows)

    def leaving(self, tokens: int) -> Exact:
        """Copies of the tokens - 1 rows that so many new tokens push out, and their queries see."""
        # From 1: what the first new token replaces is out of sight even for that token.
        places = self.counts[2:] + torch.arange(1, tokens, device=self.empty.device)
        return _exact([rows.index_select(2, places % self.window) for rows in self.slots.rows()])

    def exact(self) -> Exact:
        """The slots, as they are stored."""
        return _exact(self.slots.rows())

    def with_old(self, old: Exact) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """K, V and indices in order of all that is stored, behind `old`, which were `leaving`."""
        fields = [_flat(each) for each in (old, self.exact())]
        start = max(0, self.length - self.window - fields[0][0].shape[2])
        indices = torch.arange(start, self.length, device=self.empty.device)
        lost = max(0, self._first_in_slots - start)
        places = indices[lost:] % self.window
        rows = [
            torch.cat((past[:, :, past.shape[2] - lost :], slots.index_select(2, places)), dim=2)
            for past, slots in zip(*fields, strict=True)
        ]
        return *self._decode(rows), indices

    def storage(self) -> list[torch.Tensor]:
        """The tensors that hold the tokens, and their counts."""
        return [self.counts, *self.slots.whole()]

    def advance(self, tokens: int) -> None:
        """Count tokens that a replayed step has added on the device."""
        self._length += tokens
        self._first_kept = max(self._first_kept, self._first_in_slots)

    def retract(self, length: int) -> None:
        """Count `length` tokens again: the last step was not stored."""
        self._length = length

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens, put back what is recorded, and drop the record."""
        lost, base = self._first_kept, self.first_kept
        self.length = min(self.length, length)
        back = range(max(base, self._first_in_slots), lost)
        if back:
            self._put(back.start, self._past.rows(back.start - base, back.stop - base))
            self._first_kept = back.start
        self._keeper.forget(length)
        self._past.truncate(0)
        self._past.resize(min(self._past.capacity, _PAST_TOKENS))

    def load(self, rows: list[torch.Tensor], length: int) -> None:
        """Replace the slots by these rows; raises as `TokenBuffer.load` does."""
        self.slots.load(rows)
        self.length = length
        self._first_kept = self._first_in_slots
        self._past.truncate(0)

    def save(self, device: torch.device | None) -> KeptRows:
        """What `restore` needs to come back here: nothing is copied yet."""
        first = max(self._first_kept, self._first_in_slots)
        return self._keeper.mark(first, self.length, device or self.empty.device)

    def restore(self, kept: KeptRows) -> None:
        """Return to what was saved; tokens have only been added since, or taken back again."""
        for block in kept.cuts(kept.first, self._first_kept):
            self._put(block.start, block.rows)
        self.length, self._first_kept = kept.length, kept.first
        self._keeper.forget(kept.length)
        self._past.truncate(0)
        for slots in self.slots.rows(self.length):  # those of no token, as in a new ring
            slots.zero_()

    def keep_leaving(self, tokens: int) -> None:
        """Copy, where a mark needs it, what so many new tokens will push out."""
        high = self.length + tokens - self.window
        if high > self._keeper.due_from:
            most = max(_LEAST_AHEAD_TOKENS, _AHEAD_BYTES * self.window // self.slots.nbytes)
            self._keeper.keep(high, self._rows_from, most - 1 if tokens == 1 else 0)

    def select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace the batch dimension of everything stored as `change` does."""
        with torch.inference_mode(False):
            self.empty = change(self.empty)
        self.slots.select_batch(change)
        self._past.select_batch(change)
        self._keeper.forget()

    def release(self) -> None:
        """Give the memory back; the ring cannot be used any more."""
        self.slots.release()
        self._past.release()

    @property
    def _first_in_slots(self) -> int:
        return max(0, self.length - self.window)

    def _rows_from(self, low: int, high: int) -> list[torch.Tensor]:
        """Views of the slots of tokens `low` to `high`, up to the last slot at most."""
        place = low % self.window
        return self.slots.rows(place, min(self.window, place + high - low))

    def _put(self, start: int, rows: list[torch.Tensor]) -> None:
        """Write rows from any device into the slots of tokens from `start` on."""
        device = self.empty.device
        tokens = torch.arange(start, start + rows[0].shape[2], device=device)
        for slots, old in zip(self.slots.rows(), rows, strict=True):
            slots.index_copy_(2, tokens % self.window, old.to(device, non_blocking=True))

    def _record(self, streams: list[torch.Tensor]) -> None:
        """Keep the tokens that writing these will push out."""
        end = self.length + streams[0].shape[2] - self.window
        start = max(self._first_kept, end - self.window)
        if start >= end:
            return
        stop = max(start, min(end, self.length))
        tokens = torch.arange(start, stop, device=self.empty.device)
        rows = [slots.index_select(2, tokens % self.window) for slots in self.slots.rows()]
        if end > self.length:  # some never get into a slot
            low, high = max(0, start - self.length), end - self.length
            own = self._encode([stream[:, :, low:high].detach() for stream in streams])
            rows = [torch.cat(pair, dim=2) for pair in zip(rows, own, strict=True)]
        surplus = self._past.length + rows[0].shape[2] - self.window
        if surplus > 0:
            self._past.drop_front(surplus)
        self._past.resize(max(self._past.capacity, self._past.length + rows[0].shape[2]))
        self._past.append(rows)

    def _encode(self, streams: list[torch.Tensor]) -> list[torch.Tensor]:
        if self._bits == 16:
            return streams
        encoded = [codes_of(stream) for stream in streams]
        return [codes for codes, _ in encoded] + [scale for _, scale in encoded]

    def _decode(self, rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if self._bits == 16:
            return rows[0], rows[1]
        key, value = (
            (codes.float() * scale.float().unsqueeze(-1)).to(self.empty.dtype)
            for codes, scale in zip(rows[:2], rows[2:], strict=True)
        )
        return key, value


def _exact(rows: list[torch.Tensor]) -> Exact:
    """K and V, and behind them their scales."""
    key, value, *scales = rows
    key_scale, value_scale = scales or (None, None)
    return Exact(Rows(key, None, key_scale), Rows(value, None, value_scale))


def _flat(tokens: Exact) -> list[torch.Tensor]:
    assert tokens.value is not None
    fields = (*tokens.key[::2], *tokens.value[::2])
    return [field for field in (*fields[::2], *fields[1::2]) if field is not None]
