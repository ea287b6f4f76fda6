"""Pictures: opened with pillow, bounded in bytes and pixels, upright, RGB on white. No torch.

Large ones are made smaller while they are decoded, strip by strip, to some four times the pixels
that a model takes at most: what more there is would be averaged away, and take a gigabyte before.
"""

from __future__ import annotations

import io
import math
import os.path
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from rqchat.engine.foreign import border
from rqchat.engine.inputs.documents import read_bytes
from rqchat.engine.inputs.picture_detail import detail_tokens
from rqchat.engine.inputs.picture_levels import Levels, levels_of
from rqchat.engine.inputs.picture_metadata import transposition, without_metadata
from rqchat.engine.settings import DEFAULT_IMAGE_TOKENS, IMAGE_TOKEN_BUDGETS
from rqchat.errors import InputError, printable

__all__ = [
    "MAX_PICTURE_ASPECT",
    "MAX_PICTURE_BYTES",
    "MAX_PICTURE_PIXELS",
    "PATCH_PIXELS",
    "PICTURE_FORMATS",
    "PICTURE_SUFFIXES",
    "Picture",
    "decode_picture",
    "file_of_page",
    "is_page_name",
    "looks_like_picture",
    "page_name",
    "read_picture",
    "resized_size",
    "soft_token_count",
]

MAX_PICTURE_BYTES = 100_000_000
MAX_PICTURE_PIXELS = 64_000_000
# WebP is decoded whole and several times over: 64 million pixels would take 1.1 GB
_MAX_PIXELS_OF = {"WEBP": 32_000_000}
MAX_PICTURE_ASPECT = 200  # longer ones would be squeezed into one row of patches
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # pillow opens some forty more
# Those of the promised formats, and of others that people take for pictures and get a word about
PICTURE_SUFFIXES = tuple(".png .jpg .jpeg .webp .gif .bmp .tif .tiff .heic .heif .avif".split())
PATCH_PIXELS = 16
_POOLING = 3
_LOOKED_AT_BYTES = 1024
_PROGRAMS = ("EPS", "WMF")  # pillow hands them to Ghostscript and to Windows
_KEPT_PIXELS = 10_000_000  # twice the sides of what the largest budget of image tokens takes
_STRIP_PIXELS = 1_000_000
# A progressive JPEG goes through all its pixels in every scan; programs write some ten scans
_MAX_SCANNED_PIXELS = 24 * MAX_PICTURE_PIXELS
_STARTS = (
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"),  # TIFF, of files beyond 4 GiB too
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_PAGE_NAME = re.compile(r"page \d+ of .+")
_QUARTER_TURNS = (
    *(Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE),
    *(Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        name: the file, or what the user calls it; printable, whatever the file's name is.
        width, height: pixels as shown, after the camera's rotation was applied.
        image: RGB, `width` x `height` or, where that is many, a whole fraction of it.
        data: the file as it was read, for whoever keeps it; empty where there was none.
        wanted_tokens: the soft tokens that show all that is in it (`picture_detail.py`).
    """

    name: str
    width: int
    height: int
    image: Image.Image = field(repr=False, compare=False)
    data: bytes = field(default=b"", repr=False)
    wanted_tokens: int = field(default=DEFAULT_IMAGE_TOKENS, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))


def read_picture(path: str | Path) -> Picture:
    """Reads the first frame of a picture in one of `PICTURE_FORMATS`.

    Raises:
        InputError: missing, a folder, unreadable, empty, too large, damaged, or no picture.
    """
    data = read_bytes(path, MAX_PICTURE_BYTES, "a picture, such as NAME.png")
    return decode_picture(data, str(path))


def decode_picture(
    data: bytes, name: str, *, formats: tuple[str, ...] | None = PICTURE_FORMATS
) -> Picture:
    """The picture in `data`; `name` is what errors call it.

    Args:
        formats: what pillow may take it for; None for all that it knows.

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
    try:
        return _decoded(data, name, data, formats)
    except InputError:
        bare = without_metadata(data)
        if len(bare) == len(data):
            raise
        return _decoded(bare, name, data, formats)


def _decoded(pixels: bytes, name: str, data: bytes, formats: tuple[str, ...] | None) -> Picture:
    """As `decode_picture`, of the file `data` as it is or without metadata, which is `pixels`."""
    with (
        warnings.catch_warnings(),
        border(lambda cause: InputError(f"{name} is damaged or cut short: {cause}")),
    ):
        warnings.simplefilter("ignore")  # pillow's own size warning: our limit is the lower one
        try:
            with Image.open(io.BytesIO(pixels), formats=formats) as opened:
                if opened.format in _PROGRAMS:
                    raise UnidentifiedImageError
                _check_pixels(name, opened)
                _check_scans(name, opened, pixels)
                size = opened.size
                factor = _reduction(*size)
                # Has a JPEG decoded at a half, quarter or eighth of its sides; others ignore it.
                opened.draft(None, (max(1, size[0] // factor), max(1, size[1] // factor)))
                turned = transposition(opened)
                image = _reduced(opened)
        except Image.DecompressionBombError:
            raise InputError(
                f"{name} has more than {MAX_PICTURE_PIXELS / 1e6:.0f} megapixels, which is the"
                " limit; make it smaller first"
            ) from None
        except UnidentifiedImageError:
            raise InputError(
                f"{name} is {_kind(pixels)}; PNG, JPEG, WebP, GIF, BMP and TIFF work"
            ) from None
    if turned is not None:
        image = image.transpose(turned)
        is_quarter = turned in _QUARTER_TURNS
        size = (size[1], size[0]) if is_quarter else size
    pages = max(IMAGE_TOKEN_BUDGETS) if is_page_name(name) else 0
    return Picture(name, *size, image, data, pages or detail_tokens(image))


def looks_like_picture(data: bytes, name: str = "") -> bool:
    """Whether `data` is meant as a picture, also as one that cannot be read, by its first 16 bytes
    or by what its file is called."""
    is_bmp = data.startswith(b"BM") and data[6:10] == bytes(4)  # texts begin with BM as well
    is_webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    is_phones = data[4:8] == b"ftyp" and data[8:12] in (*_HEIF_BRANDS, *_AVIF_BRANDS)
    suffix = os.path.splitext(name)[1].lower()
    return data.startswith(_STARTS) or is_bmp or is_webp or is_phones or suffix in PICTURE_SUFFIXES


def page_name(number: int, file_name: str) -> str:
    """What a picture of a page is called; the model is told, so that answers can cite it."""
    return f"page {number} of {file_name}"


def is_page_name(name: str) -> bool:
    """Whether a picture is one of a page. Names are all that saved conversations keep of that."""
    return _PAGE_NAME.fullmatch(name) is not None


def file_of_page(name: str) -> str:
    """The PDF file that a picture of that name is a page of; empty for none."""
    return name.partition(" of ")[2] if is_page_name(name) else ""


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
        return "a PDF file, which --file takes"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return "a HEIC picture, as phones make them; save it as a JPEG first"
    if start[4:8] == b"ftyp" and start[8:12] in _AVIF_BRANDS:
        return "an AVIF picture; save it as a PNG or JPEG first"
    return "no picture that can be read"


def _reduction(width: int, height: int) -> int:
    """By which whole number both sides are divided."""
    return max(1, math.isqrt(width * height // _KEPT_PIXELS))


def _reduced(image: Image.Image) -> Image.Image:
    """RGB on white, each side divided by `_reduction`; a strip at a time is converted."""
    image.load()
    levels = levels_of(image)
    factor = _reduction(*image.size)
    whole = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = max(1, _STRIP_PIXELS // (image.width * factor)) * factor
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        flat = _flatten(strip, levels)
        whole.paste(flat.reduce(factor) if factor > 1 else flat, (0, top // factor))
    return whole


def _flatten(image: Image.Image, levels: Levels | None) -> Image.Image:
    """RGB, with transparent parts on white."""
    if levels is not None:
        return levels.apply(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def _check_pixels(name: str, image: Image.Image) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width} x {height} pixels; there is nothing in it")
    most, of_kind = MAX_PICTURE_PIXELS, ""
    if image.format in _MAX_PIXELS_OF:
        most, of_kind = _MAX_PIXELS_OF[image.format], f" of {image.format} pictures"
    if width * height > most:
        raise InputError(
            f"{name} has {width * height / 1e6:.0f} megapixels ({width} x {height}); the limit"
            f"{of_kind} is {most / 1e6:.0f}, so make it smaller first"
        )
    if max(width, height) > MAX_PICTURE_ASPECT * min(width, height):
        raise InputError(
            f"{name} is {width} x {height} pixels; one side may be {MAX_PICTURE_ASPECT} times the"
            " other at most, so cut it into parts"
        )


def _check_scans(name: str, image: Image.Image, data: bytes) -> None:
    # Within the data of a scan 0xFF is never followed by the marker of another one
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if scans * image.width * image.height > _MAX_SCANNED_PIXELS:
        raise InputError(
            f"{name} is a JPEG of {scans:,} scans, which takes very long to decode; save it again"
            " with another program"
        )
