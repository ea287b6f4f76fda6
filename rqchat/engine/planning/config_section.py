"""An object of a config.json whose values are checked as they are read. No torch.

A config is part of a download: a number may be a list, infinite (JSON's 1e400), or so large that a
list as long fills the memory. What is read here is whole and within what a model can have.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Self

__all__ = ["ConfigSection"]

_MOST = 2**30  # of anything that is counted; beyond it sums are no sizes of models any more


class ConfigSection:
    """The values of one object, which errors call by its place in the file."""

    def __init__(self, values: object, place: str = "") -> None:
        """`place` is what the object is called in the file; nothing for the file itself.

        Raises:
            ValueError: it is no object.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{place or 'it'} is {reprlib.repr(values)}, not an object")
        self._values, self._place = values, f"{place}." if place else ""

    def __contains__(self, key: str) -> bool:
        """Whether `key` is there, be it null."""
        return key in self._values

    def count(
        self, key: str, default: int | None = None, *, least: int = 1, most: int = _MOST
    ) -> int:
        """The whole number called `key`, or `default` where it is absent or null.

        Raises:
            ValueError: it is absent without a default, no whole number, or out of range.
        """
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is int and least <= value <= most:
            return value
        found = "missing" if value is None else reprlib.repr(value)
        raise ValueError(
            f"{self._place}{key} is {found}; it takes whole numbers from {least} to {most:,}"
        )

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Whether `key` is set.

        Raises:
            ValueError: it is neither true nor false.
        """
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ValueError(
                f"{self._place}{key} is {reprlib.repr(value)}; it takes true and false"
            )
        return value

    def get(self, key: str) -> Any:
        """The value of `key`, unchecked; None where it is absent."""
        return self._values.get(key)

    def section(self, key: str) -> Self | None:
        """The object called `key`; None where it is absent, null or empty.

        Raises:
            ValueError: it is no object.
        """
        value = self._values.get(key)
        return type(self)(value, f"{self._place}{key}") if value not in (None, {}) else None
