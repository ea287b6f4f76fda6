"""The check for NaN and infinity in what is stored, and what else the layers of a cache share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from rotorquant.exceptions import NonFiniteError
from rotorquant.layers.buffers import STEP_TOKENS, Meter
from rotorquant.layers.pending_scalar import PendingScalar
from rotorquant.ops.append import note_finite

__all__ = ["FiniteCheck", "LayerContext"]


class _PendingCheck(NamedTuple):
    """The totals of all devices on their way to the host, and the tokens that they cover."""

    totals: list[PendingScalar]
    tokens: int

    def has_arrived(self) -> bool:
        return all(total.has_arrived for total in self.totals)


class FiniteCheck:
    """Finds NaN and infinity in what is stored, without a wait on a GPU.

    On a CPU a bad chunk is refused before it is stored. On a GPU the layers of a pass add to one
    number on the device. When the next pass begins, that number is copied to the host without a
    wait, and read once it has arrived, a pass later at the earliest; `verify` waits for it. From
    then on the cache refuses to go on until the tokens of the bad pass have been removed.

    Attributes:
        deferred_on: device types on which the check is read later.
    """

    deferred_on: tuple[str, ...] = ("cuda",)

    def __init__(self) -> None:
        self._totals: dict[torch.device, torch.Tensor] = {}  # 0, or NaN
        self._pending: list[_PendingCheck] = []
        self._sound_tokens = 0
        self._begun_tokens = 0
        self._broken = False

    def check(self, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor | None:
        """Check a chunk of one layer.

        Returns:
            Of a decode step on a GPU the total [], to which what stores its rows has to add NaN
            (`ops.append`): it reads them anyway, and a launch for each layer is saved. Else None.

        Raises:
            NonFiniteError: it holds NaN or infinity (on a CPU).
        """
        if key.device.type in self.deferred_on:
            total = self._total_on(key.device)
            if key.shape[2] <= STEP_TOKENS:
                return total
            note_finite(key, value, total)
            return None
        sums = key.sum(dtype=torch.float32) + value.sum(dtype=torch.float32)
        if not math.isfinite(sums.item()):
            raise NonFiniteError("keys or values hold NaN or infinity; nothing was stored")
        return None

    def _total_on(self, device: torch.device) -> torch.Tensor:
        if device not in self._totals:
            with torch.inference_mode(False):
                self._totals[device] = torch.zeros((), device=device)
        return self._totals[device]

    def begin(self, length: int) -> None:
        """Note that a pass begins on top of `length` tokens; raises as `verify` does."""
        if not _capturing():  # a capture runs nothing, and must not wait
            if not self._pending:  # totals only grow worse, so none is missed
                self._send(length)
            self._receive(wait=False)
        self._begun_tokens = length

    def verify(self) -> None:
        """Wait for the totals of all passes.

        Raises:
            NonFiniteError: one stored NaN or infinity.
        """
        self._send(self._begun_tokens)
        self._receive(wait=True)

    def mark(self, length: int) -> dict[torch.device, torch.Tensor]:
        """The totals [] of `length` tokens as they are on their devices, for `back_to`.

        Raises:
            NonFiniteError: as `verify` does, as far as it is known without a wait.
        """
        self._send(length)
        self._receive(wait=False)
        return {device: total.clone() for device, total in self._totals.items()}

    def back_to(
        self, length: int, totals: Mapping[torch.device, torch.Tensor] | None = None
    ) -> None:
        """Note that the cache was taken back to `length` tokens, where it had these totals."""
        self._begun_tokens = min(self._begun_tokens, length)
        if totals is not None and length > self._sound_tokens:
            for device, total in self._totals.items():
                total.copy_(totals[device]) if device in totals else total.zero_()
            self._pending = [each for each in self._pending if each.tokens <= length]
            self._broken = False
        elif length <= self._sound_tokens:  # else the bad tokens may still be there
            for total in self._totals.values():
                total.zero_()
            self._pending.clear()
            self._broken = False
            self._sound_tokens = length

    def _send(self, tokens: int) -> None:
        if self._totals:
            totals = [PendingScalar(total) for total in self._totals.values()]
            self._pending.append(_PendingCheck(totals, tokens))

    def _receive(self, wait: bool) -> None:
        # In the order in which they were sent, so that the last sound one is the last of its kind
        while self._pending and (wait or self._pending[0].has_arrived()):
            arrived = self._pending.pop(0)
            self._broken |= not all(math.isfinite(each.value()) for each in arrived.totals)
            if not self._broken:
                self._sound_tokens = max(self._sound_tokens, arrived.tokens)
        # At every pass from now on, until the bad tokens have been taken back.
        if self._broken:
            raise NonFiniteError(
                f"keys or values of the tokens from {self._sound_tokens} on hold NaN or infinity; "
                f"rewind() to a mark, crop_to({self._sound_tokens}) or reset()"
            )


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@dataclass(frozen=True, slots=True)
class LayerContext:
    """What all layers of a cache share.

    Attributes:
        returns_views: whether `update` returns handles; else it returns dequantized K and V.
        meter: counts the stored bytes.
        finite_check: finds NaN and infinity.
    """

    returns_views: Callable[[], bool]
    meter: Meter
    finite_check: FiniteCheck
