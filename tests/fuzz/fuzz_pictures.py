"""Pictures: promised and other formats, every mode, forged sizes, broken metadata, damage."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from rqchat.engine.inputs.pictures import decode_picture
from tests.fuzz.damage import damaged

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF") * 3 + (
    *("AVIF", "DDS", "BLP", "ICO", "ICNS", "TGA", "PPM", "JPEG2000", "SGI", "PCX", "MPO", "EPS"),
)
_MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16")


def try_one(made: random.Random, folder: Path) -> None:
    """A picture, most of the time damaged, to `decode_picture`."""
    name = made.choice(("cat.png", "\x1b[2J\u202e.png", "caf\udce9.png"))
    decode_picture(_forged(made) if made.random() < 0.15 else _drawn(made), name)


def _drawn(made: random.Random) -> bytes:
    size = made.choice(((1, 1), (8, 8), (1, 300), (700, 2), (made.randint(1, 90), 40)))
    noise = Image.frombytes("L", size, made.randbytes(size[0] * size[1]))
    format_, out = made.choice(_FORMATS), io.BytesIO()
    options: dict[str, Any] = made.choice(({}, {"exif": made.randbytes(30)}, {"xmp": b"<x"}))
    if format_ == "JPEG" and made.random() < 0.5:
        options["progressive"] = True
    if format_ == "TIFF":
        options = {"compression": made.choice((None, "tiff_lzw", "tiff_deflate", "packbits"))}
    try:
        noise.convert(made.choice(_MODES)).save(out, format_, **options)
    except (OSError, ValueError, KeyError, TypeError, struct.error, SyntaxError):
        out = io.BytesIO()  # not every format has every mode
        noise.save(out, "PNG")
    return damaged(made, out.getvalue())


def _forged(made: random.Random) -> bytes:
    """A PNG with pixels for no header, and chunks that mean nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content) ^ made.choice((0, 0, 0, 1))
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    sides = (1, 2, 200, 8000, 65_535, 64_000_000, 2**31 - 1)
    depth, colour = made.choice(((1, 0), (8, 0), (16, 0), (8, 2), (8, 3), (8, 6), (16, 6), (3, 9)))
    header = struct.pack(
        ">IIBBBBB", made.choice(sides), made.choice(sides), depth, colour, 0, 0, made.randrange(2)
    )
    kinds = (b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"tRNS", b"PLTE", b"acTL", b"fcTL")
    extra = b"".join(
        chunk(made.choice(kinds), made.randbytes(made.randint(0, 40)))
        for _ in range(made.randrange(4))
    )
    pixels = chunk(b"IDAT", zlib.compress(bytes(made.choice((0, 10, 100_000, 10_000_000)))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")
