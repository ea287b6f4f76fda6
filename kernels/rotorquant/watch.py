"""What the layers of one cache share: the byte count, the watch for NaN, the way to hand over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from rotorquant.buffers import Meter
from rotorquant.errors import NonFiniteError

__all__ = ["FiniteWatch", "LayerContext"]


class FiniteWatch:
    """Finds NaN and infinity in what is stored, without a wait per layer on a GPU.

    On a CPU a bad chunk is refused before it is stored. A GPU would have to be waited for, so there
    the layers of a pass gather one number on the device, which `begin` of the next pass reads, and
    every other call that needs a sound cache (`verify`). From then on the cache refuses to go on
    until the tokens of the bad pass have been taken out.

    Attributes:
        late: device types on which the check is read later.
    """

    def __init__(self) -> None:
        self.late: tuple[str, ...] = ("cuda",)
        self._seen: dict[torch.device, torch.Tensor] = {}
        self._sound_tokens = 0
        self._broken = False

    def look(self, key: torch.Tensor, value: torch.Tensor) -> None:
        """Check a chunk of one layer.

        Raises:
            NonFiniteError: it holds NaN or infinity (on a CPU).
        """
        # One float32 sum per tensor: any NaN or infinity survives it.
        sums = (key.sum(dtype=torch.float32) + value.sum(dtype=torch.float32)).detach()
        if sums.device.type in self.late:
            trace = sums * 0.0  # 0, or NaN
            seen = self._seen.get(sums.device)
            self._seen[sums.device] = trace if seen is None else seen + trace
        elif not bool(sums.isfinite()):
            raise NonFiniteError("keys or values hold NaN or infinity; nothing was stored")

    def begin(self, length: int) -> None:
        """A pass begins on top of `length` tokens; raises as `verify` does."""
        self.verify()
        self._sound_tokens = length

    def verify(self) -> None:
        """Read what the last pass gathered.

        Raises:
            NonFiniteError: it stored NaN or infinity.
        """
        sums, self._seen = self._seen, {}
        self._broken |= not all(bool(trace.isfinite()) for trace in sums.values())
        if self._broken:
            raise NonFiniteError(
                f"keys or values of the tokens from {self._sound_tokens} on hold NaN or infinity; "
                f"rewind() to a mark, crop_to({self._sound_tokens}) or reset()"
            )

    def back_to(self, length: int) -> None:
        """The cache holds `length` tokens again."""
        if length <= self._sound_tokens:
            self._seen.clear()
            self._broken = False
            self._sound_tokens = length


@dataclass(frozen=True, slots=True)
class LayerContext:
    """Shared by all layers of a cache.

    Attributes:
        hands_views: whether `update` returns handles (else dequantized K and V).
        meter: of the stored bytes.
        watch: for NaN and infinity.
    """

    hands_views: Callable[[], bool]
    meter: Meter
    watch: FiniteWatch
