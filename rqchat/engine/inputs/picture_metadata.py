"""What a picture file holds besides its pixels: nothing of it makes a sound picture unreadable.

No torch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import ExifTags, Image

__all__ = ["transposition", "without_metadata"]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # ICC profile, EXIF, XMP
# JPEG's segments of applications and comments, but Adobe's own, which says how colours are stored
_JPEG_METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, 0xFE))
_JPEG_SCAN = 0xDA
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def transposition(image: Image.Image) -> Image.Transpose | None:
    """What turns `image` upright, as the camera noted it; None where it did not, or unreadably."""
    try:
        return _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # any at all: EXIF is a tangle of offsets, and the pixels are sound
        return None


def without_metadata(data: bytes) -> bytes:
    """A PNG, JPEG or WebP file reduced to what its pixels need; others as they are."""
    if data.startswith(_PNG):
        return _PNG + b"".join(_png_chunks(data))
    if data.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd8" + b"".join(_jpeg_segments(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        body = b"WEBP" + b"".join(_webp_chunks(data))
        return b"RIFF" + struct.pack("<I", len(body)) + body
    return data


def _png_chunks(data: bytes) -> Iterator[bytes]:
    start = len(_PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] in _PNG_PIXELS:
            yield data[start:end]
        start = end


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker = data[start + 1]
        if marker == 0xFF:  # filling
            start += 1
            continue
        if marker == _JPEG_SCAN:
            break
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker not in _JPEG_METADATA:
            yield data[start:end]
        start = end
    yield data[start:]


def _webp_chunks(data: bytes) -> Iterator[bytes]:
    start = 12
    while start + 8 <= len(data):
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        end = start + 8 + size + size % 2
        kind = data[start : start + 4]
        if kind == b"VP8X":
            flags = data[start + 8] if start + 8 < len(data) else 0
            kept = bytes([flags & ~_WEBP_METADATA_FLAGS & 0xFF])
            yield data[start : start + 8] + kept + data[start + 9 : end]
        elif kind in _WEBP_PIXELS:
            yield data[start:end]
        start = end
