"""RotorQuant: a packed key-value cache for transformers, made for Gemma 4.

    from rotorquant import RotorQuantCache
    model.generate(**inputs, past_key_values=RotorQuantCache(model, bits=4))

Public names are resolved on first use, so that `rotorquant.layout`, which is plain arithmetic, can
be imported without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rotorquant.cache import Mark, RotorQuantCache
    from rotorquant.config import RotorQuantConfig
    from rotorquant.errors import RotorQuantError

__all__ = ["Mark", "RotorQuantCache", "RotorQuantConfig", "RotorQuantError"]

_HOMES = {
    "Mark": "rotorquant.cache",
    "RotorQuantCache": "rotorquant.cache",
    "RotorQuantConfig": "rotorquant.config",
    "RotorQuantError": "rotorquant.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
