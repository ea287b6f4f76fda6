"""Pictures: opened with pillow, bounded in bytes and pixels, upright, RGB on white. No torch."""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from rqchat.engine.inputs.documents import read_bytes
from rqchat.errors import InputError

__all__ = [
    "MAX_PICTURE_BYTES",
    "MAX_PICTURE_PIXELS",
    "PATCH_PIXELS",
    "Picture",
    "decode_picture",
    "read_picture",
    "resized_size",
    "soft_token_count",
]

MAX_PICTURE_BYTES = 100_000_000
MAX_PICTURE_PIXELS = 64_000_000
PATCH_PIXELS = 16
_POOLING = 3
_LOOKED_AT_BYTES = 1024
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1")
_NOT_PICTURES = ("EPS", "WMF")  # programs to run: pillow hands them to Ghostscript and to Windows


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        name: the file, or what the user calls it.
        width, height: pixels as shown, after the camera's rotation was applied.
        image: RGB, `width` x `height`.
        data: the file as it was read, for whoever keeps it; empty where there was none.
    """

    name: str
    width: int
    height: int
    image: Image.Image = field(repr=False, compare=False)
    data: bytes = field(default=b"", repr=False, compare=False)


def read_picture(path: str | Path) -> Picture:
    """Reads the first frame of any picture that pillow knows.

    Raises:
        InputError: missing, a folder, unreadable, empty, too large, damaged, or no picture.
    """
    data = read_bytes(path, MAX_PICTURE_BYTES, "a picture, such as NAME.png")
    return decode_picture(data, str(path))


def decode_picture(data: bytes, name: str) -> Picture:
    """The picture in `data`; `name` is what errors call it.

    Raises:
        InputError: empty, too large, damaged, or no picture.
    """
    if not data:
        raise InputError(f"{name} is empty (0 bytes); save the picture again")
    if len(data) > MAX_PICTURE_BYTES:
        raise InputError(
            f"{name} has {len(data) / 1e6:.0f} MB; the limit is {MAX_PICTURE_BYTES / 1e6:.0f} MB,"
            " so make it smaller first"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pillow's own size warning: our limit is the lower one
        try:
            with Image.open(io.BytesIO(data)) as opened:
                if opened.format in _NOT_PICTURES:
                    raise UnidentifiedImageError
                _check_pixels(name, opened.width, opened.height)
                upright = _flatten(ImageOps.exif_transpose(opened))
        except Image.DecompressionBombError:
            raise InputError(
                f"{name} has more than {MAX_PICTURE_PIXELS / 1e6:.0f} megapixels, which is the"
                " limit; make it smaller first"
            ) from None
        except UnidentifiedImageError:
            raise InputError(
                f"{name} is {_kind(data)}; PNG, JPEG, WebP, GIF, BMP and TIFF work"
            ) from None
        except (OSError, SyntaxError, ValueError, EOFError, TypeError, MemoryError) as error:
            raise InputError(f"{name} is damaged or cut short: {error}") from None
    return Picture(name, upright.width, upright.height, upright, data)


def soft_token_count(width: int, height: int, budget: int) -> int:
    """Soft tokens of a picture, without the two markers around them."""
    new_width, new_height = resized_size(width, height, budget)
    return (new_width // (PATCH_PIXELS * _POOLING)) * (new_height // (PATCH_PIXELS * _POOLING))


def resized_size(width: int, height: int, budget: int) -> tuple[int, int]:
    """Width and height in pixels that Gemma 4's image processor gives a picture.

    Both are multiples of 48 with at most `budget` x 9 patches of 16 x 16, aspect kept
    (`get_aspect_ratio_preserving_size` in transformers' image_processing_gemma4.py).
    """
    side = PATCH_PIXELS * _POOLING
    factor = math.sqrt(budget * side**2 / (width * height))
    new_width = math.floor(factor * width / side) * side
    new_height = math.floor(factor * height / side) * side
    if new_height == 0:
        new_height, new_width = side, min(width // height, budget) * side
    elif new_width == 0:
        new_width, new_height = side, min(height // width, budget) * side
    return new_width, new_height


def _kind(data: bytes) -> str:
    """What people take for a picture, by its first bytes."""
    start = data[:_LOOKED_AT_BYTES].lstrip().lower()
    if b"<svg" in start:
        return "an SVG drawing, which is no pixels; export it as a PNG first"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not the picture itself"
    if start.startswith(b"%pdf-"):
        return "a PDF file, which --file takes for its text"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return "a HEIC picture, as phones make them; save it as a JPEG first"
    return "no picture that can be read"


def _flatten(image: Image.Image) -> Image.Image:
    """RGB, with transparent parts on white."""
    if image.mode.startswith(("I;16", "I", "F")):
        image = _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or more bits, scaled down where pillow's own conversion clips."""
    # One band: a pair of numbers, where other pictures have a pair for each band
    top = float(image.getextrema()[1])  # type: ignore[arg-type]
    scale = 1.0 if top <= 255 else 255.0 / max(top, 65_535.0)
    return image.point(lambda value: value * scale + 0.0).convert("L")


def _check_pixels(name: str, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width} x {height} pixels; there is nothing in it")
    if width * height > MAX_PICTURE_PIXELS:
        raise InputError(
            f"{name} has {width * height / 1e6:.0f} megapixels ({width} x {height}); the limit is"
            f" {MAX_PICTURE_PIXELS / 1e6:.0f}, so make it smaller first"
        )
