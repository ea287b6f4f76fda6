"""Greys of 16 or more bits, signed ones and floats, as the 8 bits that a screen shows. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

__all__ = ["Levels", "levels_of"]

_PHOTOMETRIC, _SAMPLE_FORMAT, _BITS = 262, 339, 258  # tags of TIFF 6.0
_SIGNED = 2
_STRIP_PIXELS = 1_000_000


@dataclass(frozen=True, slots=True)
class Levels:
    """Which values are black and white.

    Attributes:
        black, white: of the stored values; `black` is the higher one where 0 stands for white.
        is_unsigned: 32 bits that pillow reads as signed ones.
        flips: 8 bits that pillow reads as unsigned ones.
    """

    black: float = 0.0
    white: float = 255.0
    is_unsigned: bool = False
    flips: bool = False

    def apply(self, image: Image.Image) -> Image.Image:
        """A part of the picture in 8 bits, mode `L`."""
        import numpy as np  # a tenth of a second of every start, for pictures that are seldom

        values = np.asarray(image)
        if self.flips:
            return Image.fromarray(values ^ np.uint8(0x80))
        if self.is_unsigned:
            values = values.view(np.uint32)
        with np.errstate(all="ignore"):  # floats may hold infinities
            scaled = (values.astype(np.float64) - self.black) * (255.0 / (self.white - self.black))
        shown = np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 255.0)
        return Image.fromarray(shown.astype(np.uint8))


def levels_of(image: Image.Image) -> Levels | None:
    """How `image`, which is loaded, becomes 8 bits; None where pillow's own conversion is right.

    Unsigned integers keep black and white of their format, so that a dark picture stays dark, and
    floats from 0 to 1 those of this range. Where values are below 0 or above it, the format says
    nothing of what is meant, and the least and the greatest one that occur are taken.
    """
    tags = getattr(image, "tag_v2", {})
    sample = tuple(tags.get(_SAMPLE_FORMAT, ()))
    is_signed = sample[:1] == (_SIGNED,)
    if image.mode == "L" and is_signed:
        return Levels(flips=True)
    if not image.mode.startswith(("I", "F")):
        return None
    is_unsigned = image.mode == "I" and tags.get(_BITS) == (32,) and not is_signed and bool(tags)
    low, high = _range(image, is_unsigned)
    if image.mode == "F":
        black, white = (0.0, 1.0) if low >= 0 and high <= 1 else (min(low, 0.0), high)
    elif low < 0 or high > 65_535:
        black, white = low, high
    else:
        black, white = 0.0, 255.0 if high <= 255 else 32_767.0 if is_signed else 65_535.0
    if white <= black:
        white = black + 1.0
    if tags.get(_PHOTOMETRIC) == 0:
        black, white = white, black
    return Levels(black, white, is_unsigned)


def _range(image: Image.Image, is_unsigned: bool) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 0 where there is none."""
    import numpy as np

    low, high = math.inf, -math.inf
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        values = np.asarray(strip)
        values = values.view(np.uint32) if is_unsigned else values
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)
