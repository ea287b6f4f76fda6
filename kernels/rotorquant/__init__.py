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
    from rotorquant.calibration.calibration import Calibration, calibrate
    from rotorquant.config import Bits, RotorQuantConfig
    from rotorquant.exceptions import RotorQuantError
    from rotorquant.fused_layers import fuse_layers
    from rotorquant.presets import IsoQuantCache, PlanarQuantCache, TurboQuantCache
    from rotorquant.snapshot import Source
    from rotorquant.step_graph import StepGraph

__all__ = [
    "Bits",
    "Calibration",
    "IsoQuantCache",
    "Mark",
    "PlanarQuantCache",
    "RotorQuantCache",
    "RotorQuantConfig",
    "RotorQuantError",
    "Source",
    "StepGraph",
    "TurboQuantCache",
    "calibrate",
    "fuse_layers",
]

_HOMES = {
    "Bits": "rotorquant.config",
    "Calibration": "rotorquant.calibration.calibration",
    "IsoQuantCache": "rotorquant.presets",
    "Mark": "rotorquant.cache",
    "PlanarQuantCache": "rotorquant.presets",
    "RotorQuantCache": "rotorquant.cache",
    "RotorQuantConfig": "rotorquant.config",
    "RotorQuantError": "rotorquant.exceptions",
    "Source": "rotorquant.snapshot",
    "StepGraph": "rotorquant.step_graph",
    "TurboQuantCache": "rotorquant.presets",
    "calibrate": "rotorquant.calibration.calibration",
    "fuse_layers": "rotorquant.fused_layers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
