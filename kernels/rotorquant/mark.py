"""A place in a sequence to come back to, with what has been copied for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rotorquant.layers.global_store import GlobalState
from rotorquant.layers.kept_rows import KeptRows

__all__ = ["Mark"]


# By identity: `RotorQuantCache._marks` holds marks weakly and looks them up by hash.
@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Mark:
    """A place to come back to, from `RotorQuantCache.mark`.

    Attributes:
        length: tokens at that place.
        states: what each storing layer needs: its window, or its exact latest tokens.
        totals: of the check for NaN.
    """

    length: int
    states: tuple[GlobalState | KeptRows | None, ...]
    totals: dict[torch.device, torch.Tensor]

    @property
    def copies(self) -> list[torch.Tensor]:
        """What has been copied so far; marks at places near to each other share copies."""
        kept = [state.tail if isinstance(state, GlobalState) else state for state in self.states]
        return [rows for each in kept if each is not None for rows in each.copies]

    @property
    def nbytes(self) -> int:
        """Bytes of the copies so far."""
        return sum(rows.nbytes for rows in self.copies)
