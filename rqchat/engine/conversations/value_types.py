"""Whether a value that was read is of the type that a record's annotation names."""

from __future__ import annotations

__all__ = ["LATEST_S", "fits"]

LATEST_S = 2.0**37  # some year that a calendar still knows
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
}


def fits(annotation: str, value: object) -> bool:
    """Of the basic types, with `| None` or without; whatever else is annotated fits."""
    name = annotation.removesuffix(" | None")
    if value is None:
        return name != annotation
    if type(value) not in _TYPES.get(name, (type(value),)):  # no isinstance: True is no number
        return False
    return type(value) is not int or -(2**63) <= value < 2**63
