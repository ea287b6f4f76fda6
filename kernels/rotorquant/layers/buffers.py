"""Token storage: tensors that share a count of tokens and grow together, and what they occupy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rotorquant.exceptions import SnapshotError
from rotorquant.ops.append import Look, append

__all__ = ["STEP_TOKENS", "Meter", "TokenBuffer", "counters"]

STEP_TOKENS = 16  # so few at once are a decode step, which one launch stores
_GROW_TOKENS = 1024


class Meter:
    """Bytes that the buffers of a cache occupy.

    Attributes:
        now: at present.
        peak: most so far; while a buffer grows, its old and its new tensor both count.
    """

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0

    def add(self, nbytes: int) -> None:
        """Count bytes that were allocated, or given back if negative."""
        self.now += nbytes
        self.peak = max(self.peak, self.now)


class TokenBuffer:
    """Tensors [B, H, capacity, ...] of which the first `length` tokens are in use.

    The length also lies on the device, in `count`. A decode step finds its places by it, so that a
    captured graph can be replayed (`step_graph.py`).

    Args:
        like: one tensor [B, H, any, ...] per stream: its shape without tokens, dtype and device.
        capacity: tokens to allocate now.
        meter: of the cache.
        count: [1] int64 on the device, to keep at `length`; by default one of its own.
    """

    def __init__(
        self,
        like: Sequence[torch.Tensor],
        capacity: int,
        meter: Meter,
        count: torch.Tensor | None = None,
    ) -> None:
        self._meter = meter
        self._tensors = [_allocated(tensor, capacity) for tensor in like]
        self.count = counters(1, like[0].device) if count is None else count
        self.length = 0
        meter.add(self.nbytes)

    @property
    def length(self) -> int:
        """Tokens in use."""
        return self._length

    @length.setter
    def length(self, tokens: int) -> None:
        self._length = tokens
        self.count.fill_(tokens)

    @property
    def capacity(self) -> int:
        """Tokens that fit without growing."""
        return self._tensors[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, unused capacity included."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def rows(self, low: int = 0, high: int | None = None) -> list[torch.Tensor]:
        """Views of tokens `low` to `high`, by default of all in use."""
        stop = self.length if high is None else min(high, self.capacity)
        return [tensor.narrow(2, min(low, stop), max(0, stop - low)) for tensor in self._tensors]

    def append(self, rows: Sequence[torch.Tensor], look: Look | None = None) -> None:
        """Add tokens, which must fit; they may lie on another device.

        Those of a decode step are looked at for NaN on the way.
        """
        tokens = rows[0].shape[2]
        if tokens <= STEP_TOKENS:
            # What comes back from a mark or a file lies on the host
            near = [new.to(self.count.device, non_blocking=True) for new in rows]
            self._append_step(near, tokens, look)
            return
        for tensor, new in zip(self._tensors, rows, strict=True):
            tensor.narrow(2, self.length, tokens).copy_(new, non_blocking=True)
        self.length += tokens

    def advance(self, tokens: int) -> None:
        """Count tokens that a replayed step has added on the device."""
        # Not by the setter: the replayed kernel itself moves the count on the device.
        self._length += tokens

    def whole(self) -> list[torch.Tensor]:
        """The tensors with their whole capacity."""
        return list(self._tensors)

    def load(self, rows: Sequence[torch.Tensor]) -> None:
        """Replace all tokens by these rows, from any device.

        Raises:
            SnapshotError: they have another form than the tensors of this buffer.
        """
        given, own = [_form(tensor) for tensor in rows], [_form(tensor) for tensor in self._tensors]
        if given != own or len({tensor.shape[2] for tensor in rows}) != 1:
            raise SnapshotError(f"it holds rows of the form {given}; this cache stores {own}")
        tokens = rows[0].shape[2]
        # First, so that growing copies nothing of what is replaced.
        self.length = 0
        self.resize(max(self.capacity, tokens))
        self.append(rows)

    def drop_front(self, tokens: int) -> None:
        """Forget the first `tokens` tokens; the others move to the front."""
        # Source and target overlap. All copies first: without memory for one nothing has moved.
        kept = [rows.clone() for rows in self.rows(tokens)]
        for tensor, rows in zip(self._tensors, kept, strict=True):
            tensor[:, :, : self.length - tokens] = rows
        self.length -= tokens

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens."""
        self.length = min(self.length, length)

    def reserve(self, tokens: int) -> None:
        """Grow, if needed, to fit `tokens` more: by a quarter at least, so that it is rare."""
        needed = self.length + tokens
        if needed > self.capacity:
            grown = max(needed, self.capacity * 5 // 4)
            self.resize(-(-grown // _GROW_TOKENS) * _GROW_TOKENS)

    def resize(self, capacity: int) -> None:
        """Reallocate for exactly `capacity` tokens, which is at least `length`."""
        if capacity != self.capacity:
            self._replace(lambda old: _moved(old, capacity, self.length))

    def select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace every tensor by `change` of it, which keeps all but the first dimension."""
        self._replace(change)

    def release(self) -> None:
        """Give the memory back; the buffer cannot be used any more."""
        self._meter.add(-self.nbytes)
        self._tensors = []
        self.length = 0

    def _append_step(self, rows: Sequence[torch.Tensor], tokens: int, look: Look | None) -> None:
        if tokens == 0:
            return
        # The op adds to `count` itself, so only the host's number is left to change.
        append(self._tensors, rows, self.count, look)
        self._length += tokens

    def _replace(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        # One at a time, so that only one stream is in memory twice.
        for index, tensor in enumerate(self._tensors):
            with torch.inference_mode(False):
                self._tensors[index] = change(tensor)
            self._meter.add(self._tensors[index].nbytes)
            self._meter.add(-tensor.nbytes)


def counters(number: int, device: torch.device) -> torch.Tensor:
    """Zeros [number] int64 that can be written to in any mode."""
    with torch.inference_mode(False):
        return torch.zeros(number, dtype=torch.int64, device=device)


def _form(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape, without the number of tokens."""
    return str(tensor.dtype), (*tensor.shape[:2], *tensor.shape[3:])


def _allocated(like: torch.Tensor, capacity: int) -> torch.Tensor:
    # An inference tensor could not be written to outside inference mode.
    with torch.inference_mode(False):
        return like.new_empty((*like.shape[:2], capacity, *like.shape[3:]))


def _moved(old: torch.Tensor, capacity: int, length: int) -> torch.Tensor:
    new = _allocated(old, capacity)
    new[:, :, :length] = old[:, :, :length]
    return new
