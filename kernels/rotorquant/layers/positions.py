"""The true position of every cached token, as the model's rotary embedding saw it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rotorquant.exceptions import CacheStateError, SnapshotError
from rotorquant.layers.buffers import Meter, TokenBuffer

__all__ = ["PositionLog"]


class PositionLog:
    """Position ids [B, length] int32 of the cached tokens; 4 bytes a token for all layers together.

    A forward pre-hook on the rotary embedding notes the position ids of the pass that is running,
    and the first layer that stores its chunk moves them into the log. So batches that are padded on
    the left get their true positions, whoever calls the model. The hook is removed with the log.

    Args:
        rotary: the model's rotary embedding.
        max_tokens: tokens to allocate at once, or None to grow.
        meter: of the cache.
    """

    def __init__(self, rotary: nn.Module, max_tokens: int | None, meter: Meter) -> None:
        self._max_tokens = max_tokens
        self._meter = meter
        self._noted: list[torch.Tensor] = []
        self._buffer: TokenBuffer | None = None
        hook = rotary.register_forward_pre_hook(_noting(self._noted), with_kwargs=True)
        # The hook must not keep the log alive, or the model would keep every cache it has had.
        weakref.finalize(self, hook.remove)

    @property
    def nbytes(self) -> int:
        """Bytes of the log."""
        return 0 if self._buffer is None else self._buffer.nbytes

    @property
    def length(self) -> int:
        """Tokens whose positions are known."""
        return 0 if self._buffer is None else self._buffer.length

    def storage(self) -> list[torch.Tensor]:
        """The tensors that hold the log, unused capacity included, and its count."""
        return [] if self._buffer is None else [self._buffer.count, *self._buffer.whole()]

    def extend(self, batch: int, length: int, tokens: int, device: torch.device) -> None:
        """Make the log cover `length + tokens`; a no-op when another layer has done so.

        Raises:
            CacheStateError: no forward pass has given the positions of these tokens.
        """
        if self._buffer is None:
            self._buffer = self._make_buffer(batch, device)
        if self._buffer.length == length + tokens:
            return  # another layer of this pass has moved them
        noted = self._noted.pop() if self._noted else None
        if noted is None or noted.shape[-1] != tokens or self._buffer.length != length:
            raise CacheStateError(
                f"the positions of {tokens} new tokens after {length} are unknown; the cache must "
                "be filled by its model's own forward pass"
            )
        self._buffer.reserve(tokens)
        # A model may give [1, T] for the whole batch.
        self._buffer.append([noted.to(device=device, dtype=torch.int32).expand(batch, 1, -1)])

    def read(self, low: int, high: int, device: torch.device) -> torch.Tensor:
        """Positions [B, high - low] int32, on the device of the layer that reads them."""
        assert self._buffer is not None
        return self._buffer.rows(low, high)[0].squeeze(1).to(device)

    def whole(self, device: torch.device) -> torch.Tensor:
        """Positions [B, capacity] int32, unused capacity included."""
        assert self._buffer is not None
        return self._buffer.whole()[0].squeeze(1).to(device)

    def advance(self, tokens: int) -> None:
        """Count tokens that a replayed step has added on the device."""
        if self._buffer is not None:
            self._buffer.advance(tokens)

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on."""
        self._noted.clear()
        if self._buffer is not None:
            self._buffer.truncate(length)

    def reset(self) -> None:
        """Forget everything."""
        self._noted.clear()
        if self._buffer is not None:
            self._buffer.release()
        self._buffer = None

    def tensors(self) -> list[torch.Tensor]:
        """What `load` restores: [B, 1, length] int32, or nothing."""
        return [] if self._buffer is None else self._buffer.rows()

    def load(self, rows: list[torch.Tensor], tokens: int, device: torch.device) -> None:
        """Replace the log by these positions, of so many tokens.

        Raises:
            SnapshotError: they are no positions.
        """
        self.reset()
        if rows:
            self._buffer = self._make_buffer(rows[0].shape[0], device)
            self._buffer.load(rows)
        if sum(row.shape[2] for row in rows) != tokens:
            raise SnapshotError(f"it holds no positions for its {tokens} tokens")

    def select_batch(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace the batch dimension as `change` does."""
        if self._buffer is not None:
            self._buffer.select_batch(change)

    def _make_buffer(self, batch: int, device: torch.device) -> TokenBuffer:
        like = torch.empty(batch, 1, 0, dtype=torch.int32, device=device)
        return TokenBuffer([like], self._max_tokens or 0, self._meter)


def _noting(noted: list[torch.Tensor]) -> Callable[..., None]:
    """A pre-hook for `rotary(x, position_ids, ...)`; it keeps the list alive, not the log."""

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positions = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        noted.clear()  # of a pass that broke off before a layer stored anything
        if isinstance(positions, torch.Tensor) and positions.ndim == 2:
            noted.append(positions.unsqueeze(1))

    return note
