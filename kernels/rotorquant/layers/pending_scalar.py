"""A number on its way from the device to the host; only its use waits for it."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["PendingScalar"]


class PendingScalar:
    """A number [] whose copy to the host begins at once.

    Work that is queued after the copy does not delay it.
    """

    def __init__(self, number: torch.Tensor) -> None:
        self._arrival: torch.cuda.Event | None = None
        if number.device.type != "cuda":
            # The caller goes on writing to its number.
            self._number = number.detach().clone()
            return
        with torch.cuda.device(number.device):
            # Only a copy to pinned memory leaves the host free.
            self._number = torch.empty((), dtype=number.dtype, pin_memory=True)
            self._number.copy_(number, non_blocking=True)
            self._arrival = torch.cuda.Event()
            self._arrival.record()

    @property
    def has_arrived(self) -> bool:
        """Whether `value` would not wait."""
        return self._arrival is None or self._arrival.query()

    def value(self) -> int | float:
        """The number; waits until it has arrived."""
        if self._arrival is not None:
            self._arrival.synchronize()
        number: Any = self._number.tolist()  # typed as a list, but it has no dimensions
        return number  # type: ignore[no-any-return]
