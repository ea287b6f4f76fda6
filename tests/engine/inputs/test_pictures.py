"""Pictures: what is read, what is refused, and how many tokens they take."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

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


def test_a_hundred_megapixels_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = _bytes(Image.new("1", (10_000, 10_000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))

    with pytest.raises(InputError, match=r"100 megapixels \(10000 x 10000\); the limit is 64"):
        decode_picture(data, "big.png")


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
