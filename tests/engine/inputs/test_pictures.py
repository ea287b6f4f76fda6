"""Pictures: what is read, what is refused, and how many tokens they take."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from rqchat.engine.inputs import pictures
from rqchat.engine.inputs.pictures import (
    decode_picture,
    read_picture,
    resized_size,
    soft_token_count,
)
from rqchat.engine.settings import IMAGE_TOKEN_BUDGETS
from rqchat.errors import InputError


def _bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@given(
    width=st.integers(1, 12_000),
    height=st.integers(1, 12_000),
    budget=st.sampled_from(IMAGE_TOKEN_BUDGETS),
)
def test_sizes_are_those_of_transformers(width: int, height: int, budget: int) -> None:
    wanted_height, wanted_width = get_aspect_ratio_preserving_size(
        height=height, width=width, patch_size=16, max_patches=budget * 9, pooling_kernel_size=3
    )

    assert resized_size(width, height, budget) == (wanted_width, wanted_height)
    assert soft_token_count(width, height, budget) == wanted_width * wanted_height // 48**2


@pytest.mark.parametrize(
    ("size", "budget", "tokens"),
    [((1920, 1080), 280, 264), ((1024, 1024), 70, 64), ((4000, 3000), 1120, 1064)],
)
def test_published_token_counts(size: tuple[int, int], budget: int, tokens: int) -> None:
    assert soft_token_count(*size, budget) == tokens


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_usual_formats_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.picture"
    path.write_bytes(_bytes(Image.new("RGB", (30, 20), "red"), kind))

    picture = read_picture(path)

    assert (picture.width, picture.height, picture.image.mode) == (30, 20, "RGB")
    red, green, blue = picture.image.tobytes()[:3]
    assert red > 240 > 30 > green + blue  # JPEG is not exact


def test_the_cameras_rotation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right
    picture = decode_picture(_bytes(image, "PNG", exif=exif), "x")

    assert (picture.width, picture.height) == (20, 40)
    assert picture.image.getpixel((19, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    options: dict[str, Any] = {"transparency": 0} if mode == "P" else {}

    assert decode_picture(_bytes(image, **options), "x").image.getpixel((0, 0)) == (255,) * 3


def test_an_animations_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = _bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert decode_picture(data, "x").image.getpixel((0, 0)) == (255, 0, 0)


def test_grey_of_16_bits_is_scaled_not_clipped() -> None:
    half = decode_picture(_bytes(Image.new("I;16", (4, 4), 32_768)), "x")

    assert half.image.getpixel((0, 0)) == pytest.approx((127, 127, 127), abs=1)


def _tiff(values: Any, sample_format: int, photometric: int = 1) -> bytes:
    """One strip of grey `values` [height, width], little endian, not compressed."""
    (height, width), data = values.shape, values.tobytes()
    rows = {256: width, 257: height, 258: values.dtype.itemsize * 8, 259: 1, 262: photometric}
    rows |= {273: 8, 277: 1, 278: height, 279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in rows.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return start + data + struct.pack("<H", len(rows)) + entries + bytes(4)


RAMP = np.linspace(0.0, 1.0, 64).reshape(8, 8)


@pytest.mark.parametrize(
    ("values", "sample_format"),
    [
        (RAMP.astype("<f4"), 3),
        ((RAMP * 255).astype("<f4"), 3),
        ((RAMP * 5000 - 2500).astype("<f4"), 3),
        ((RAMP * 65_535).astype("<u2"), 1),
        ((RAMP * 65_535 - 32_768).astype("<i2"), 2),
        ((RAMP * 32_767).astype("<i2"), 2),
        ((RAMP * 2000 - 1000).astype("<i2"), 2),
        ((RAMP * 255 - 128).astype("i1"), 2),
        ((RAMP * (2**32 - 1)).astype("<u4"), 1),
        ((RAMP * (2**32 - 1) - 2**31).astype("<i4"), 2),
    ],
    ids="0..1 0..255 floats 16 signed-16 half-16 low-16 signed-8 32 signed-32".split(),
)
def test_greys_of_every_kind_go_from_black_to_white(values: Any, sample_format: int) -> None:
    image = decode_picture(_tiff(values, sample_format), "x.tif").image
    shown = np.asarray(image)[..., 0].astype(float)
    np.testing.assert_allclose(shown, RAMP * 255, atol=2.5)


def test_values_that_are_no_numbers_and_white_that_is_0() -> None:
    odd = RAMP.astype("<f4")
    odd[0, :3] = np.nan, np.inf, -np.inf
    shown = np.asarray(decode_picture(_tiff(odd, 3), "x.tif").image)[..., 0]
    assert shown[0, :3].tolist() == [0, 255, 0]
    assert shown[7, 7] == 255
    turned = decode_picture(_tiff((RAMP * 65_535).astype("<u2"), 1, photometric=0), "x.tif").image
    assert [turned.getpixel(place) for place in ((0, 0), (7, 7))] == [(255,) * 3, (0,) * 3]


def _chunk(kind: bytes, content: bytes, *, is_sound: bool = True) -> bytes:
    sum_ = zlib.crc32(kind + content) ^ (0 if is_sound else 1)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)


RED = _bytes(Image.new("RGB", (30, 20), "red"))
LONG_EXIF = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 40


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 40),
        _chunk(b"eXIf", b"no header"),
        _chunk(b"eXIf", b""),
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no zlib"),
        _chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
        _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000))),
        _chunk(b"tEXt", b"Comment\0x", is_sound=False),
        _chunk(b"iCCP", b"x"),
        _chunk(b"pHYs", b"x"),
        _chunk(b"gAMA", b""),
        _chunk(b"acTL", b"\0"),
    ],
    ids="exif no-exif empty-exif xmp profile bomb crc icc dpi gamma frames".split(),
)
def test_a_sound_png_with_broken_metadata_is_read(chunk: bytes) -> None:
    for place in (33, len(RED) - 12):  # behind the header, and before the end
        picture = decode_picture(RED[:place] + chunk + RED[place:], "x.png")
        assert picture.image.tobytes() == bytes((255, 0, 0)) * 600


@pytest.mark.parametrize("kind", ["WEBP", "JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("exif", [LONG_EXIF, b"Exif\0\0", b"Exif\0\0II*\0\0", b"\0" * 9])
def test_a_sound_picture_with_broken_exif_is_read(kind: str, exif: bytes) -> None:
    image = Image.new("RGB", (30, 20), "red")
    options: dict[str, Any] = {} if kind == "TIFF" else {"exif": exif}
    picture = decode_picture(_bytes(image, kind, **options), "x")
    assert (picture.width, picture.height) == (30, 20)


def test_profiles_and_comments_of_a_jpeg_do_no_harm() -> None:
    jpeg = _bytes(Image.new("RGB", (30, 20), "red"), "JPEG")
    for marker in (0xE1, 0xE2, 0xED, 0xFE):
        for content in (b"ICC_PROFILE\0", b"MPF\0II*\0\xff", b"Photoshop 3.0\0" + b"8BIM", b""):
            segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
            assert decode_picture(jpeg[:2] + segment + jpeg[2:], "x").width == 30


MEASURE = """
import resource, sys
from rqchat.engine.inputs.pictures import read_picture
def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = most()
picture = read_picture(sys.argv[1])
print(picture.width, picture.height, *picture.image.size, *picture.image.getpixel((0, 0)))
print(most() - before)
"""


def test_large_pictures_take_little_more_than_their_decoded_bytes(tmp_path: Path) -> None:
    image = Image.new("RGBA", (6400, 6400), (0, 0, 0, 51))
    image.save(tmp_path / "large.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "large.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    shape, most_mib = done.stdout.splitlines()
    assert shape == "6400 6400 3200 3200 204 204 204"
    assert int(most_mib) < 280  # 156 MiB of RGBA; a gigabyte before


@pytest.mark.parametrize("size", [(8001, 5003), (9000, 1200)])
def test_large_pictures_keep_their_size_their_tokens_and_what_is_in_them(
    size: tuple[int, int],
) -> None:
    image = Image.new("RGB", size, "white")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG"):
        options: dict[str, Any] = {"compress_level": 1} if kind == "PNG" else {}
        picture = decode_picture(_bytes(image, kind, exif=exif, **options), "x")
        assert (picture.width, picture.height) == (size[1], size[0])
        for row, colour in ((9, (255, 0, 0)), (picture.image.height - 9, (255, 255, 255))):
            assert picture.image.getpixel((9, row)) == pytest.approx(colour, abs=3)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    jpeg = _bytes(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    with pytest.raises(InputError, match="a JPEG of 1,010 scans, which takes very long"):
        decode_picture(jpeg[:-2] + scan * 1000 + jpeg[-2:], "x")


def test_a_hundred_megapixels_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = _bytes(Image.new("1", (10_000, 10_000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))

    with pytest.raises(InputError, match=r"100 megapixels \(10000 x 10000\); the limit is 64"):
        decode_picture(data, "big.png")


def test_webp_which_is_decoded_whole_has_a_lower_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pictures._MAX_PIXELS_OF, "WEBP", 2_000_000)
    image = Image.new("RGB", (2000, 1001))
    assert decode_picture(_bytes(image), "x").width == 2000
    with pytest.raises(InputError, match="2 megapixels .*; the limit of WEBP pictures is 2"):
        decode_picture(_bytes(image, "WEBP"), "x")


def test_a_bomb_is_called_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)  # pillow's own limit, which comes first
    with pytest.raises(InputError, match="big.png has more than 64 megapixels, which is the limit"):
        decode_picture(_bytes(Image.new("1", (100, 100))), "big.png")


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", 1000)
    path = tmp_path / "big.png"
    path.write_bytes(bytes(1001))

    with pytest.raises(InputError, match=r"big\.png has"):
        read_picture(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is text, not a picture", "no picture"),
        (b'<?xml version="1.0"?>\n<svg width="9"/>', "an SVG drawing.*export it as a PNG"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page, not the picture"),
        (b"%PDF-1.7 and more", "a PDF file, which --file takes"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1", "an AVIF picture; save it as a PNG or JPEG first"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "a HEIC picture.*save it as a JPEG"),
        (_bytes(Image.new("RGB", (4, 4)), "EPS"), "no picture"),  # a program for Ghostscript
        (_bytes(Image.effect_noise((64, 64), 90), "JPEG")[:900], "damaged or cut short"),
        (_bytes(Image.effect_noise((64, 64), 90))[:2000], "damaged or cut short"),
    ],
    ids=[
        "0 bytes",
        "text",
        "SVG",
        "HTML",
        "PDF",
        "AVIF",
        "HEIC",
        "PostScript",
        "half a JPEG",
        "half a PNG",
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=f"cat.png is {reason}"):
        decode_picture(data, "cat.png")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        read_picture(tmp_path)
