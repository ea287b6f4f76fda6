"""The names under which people know these caches."""

from __future__ import annotations

from typing import Any

from rotorquant.cache import RotorQuantCache
from rotorquant.config import Bits

__all__ = ["IsoQuantCache", "PlanarQuantCache"]


class PlanarQuantCache(RotorQuantCache):
    """`RotorQuantCache` in mode `planar`; options as there."""

    def __init__(self, model: Any, bits: int | Bits | None = None, **options: Any) -> None:
        super().__init__(model, bits, "planar", **options)


class IsoQuantCache(RotorQuantCache):
    """`RotorQuantCache` in mode `iso`, or `iso-full` with `full`; options as there."""

    def __init__(
        self, model: Any, bits: int | Bits | None = None, *, full: bool = False, **options: Any
    ) -> None:
        super().__init__(model, bits, "iso-full" if full else "iso", **options)
