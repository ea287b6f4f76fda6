"""Every error rotorquant raises on purpose.

RotorQuantError
|-- ConfigError             an option out of range, or a mode that does not exist
|-- UnsupportedModelError   the model cannot be served; the sentence names the reason
|-- NonFiniteError          NaN or infinity in keys or values
|-- CapacityError           more tokens than `max_tokens`
|-- CacheStateError         the call does not fit what the cache holds: batch, crop, mark, image
|-- SnapshotError           a file that cannot be written, is damaged, or is of something else
`-- CaptureError            a decode step that cannot be captured; it still runs as it is
"""

from __future__ import annotations

__all__ = [
    "CacheStateError",
    "CapacityError",
    "CaptureError",
    "ConfigError",
    "NonFiniteError",
    "RotorQuantError",
    "SnapshotError",
    "UnsupportedModelError",
]


class RotorQuantError(Exception):
    """Base of all errors of this library; says what was given and what is allowed."""


class ConfigError(RotorQuantError):
    """An option is out of range, or names something that does not exist."""


class UnsupportedModelError(RotorQuantError):
    """The model's attention cannot be served; raised when the cache is constructed."""


class NonFiniteError(RotorQuantError):
    """Keys or values hold NaN or infinity; nothing of that call was stored in the layer."""


class CapacityError(RotorQuantError):
    """The sequence would grow beyond `max_tokens`."""


class CacheStateError(RotorQuantError):
    """The call does not fit what the cache holds."""


class SnapshotError(RotorQuantError):
    """A saved cache cannot be written or read, is damaged, or does not fit; nothing was changed."""


class CaptureError(RotorQuantError):
    """A decode step cannot be captured; nothing was changed, and it can run as it is."""
