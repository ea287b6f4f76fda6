"""Scenes as pictures: anti-aliased polygons, noise and JPEG."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from rqchat.pocket.training.vision.scenes import Scene, Shape, bounds, outline

__all__ = ["render"]

_SUPERSAMPLE = 4


def _hole(shape: Shape) -> float:
    """Inner radius of a ring as a fraction of the outer one."""
    return 0.45 + 0.3 * shape.variant


def _paint(image: Image.Image, shape: Shape) -> None:
    unit = math.sqrt(image.width * image.height)
    points = outline(shape)
    left, top, right, bottom = bounds(points)
    x0 = math.floor(shape.x * image.width + left * unit) - 1
    y0 = math.floor(shape.y * image.height + top * unit) - 1
    size = (math.ceil((right - left) * unit) + 4, math.ceil((bottom - top) * unit) + 4)
    dx, dy = shape.x * image.width - x0, shape.y * image.height - y0
    fine = [((x * unit + dx) * _SUPERSAMPLE, (y * unit + dy) * _SUPERSAMPLE) for x, y in points]
    mask = Image.new("L", (size[0] * _SUPERSAMPLE, size[1] * _SUPERSAMPLE))
    draw = ImageDraw.Draw(mask)
    draw.polygon(fine, fill=255)
    if shape.kind == "ring":
        radius = shape.size / 2 * unit * _hole(shape) * _SUPERSAMPLE
        middle = (dx * _SUPERSAMPLE, dy * _SUPERSAMPLE)
        draw.circle(middle, radius, fill=0)
    image.paste(shape.rgb, (x0, y0), mask.reduce(_SUPERSAMPLE))
    if shape.border:
        line = Image.new("L", mask.size)
        thick = max(1, round(0.03 * shape.size * unit * _SUPERSAMPLE))
        ImageDraw.Draw(line).line([*fine, fine[0]], fill=255, width=thick, joint="curve")
        image.paste(shape.border, (x0, y0), line.reduce(_SUPERSAMPLE))


def render(scene: Scene) -> Image.Image:
    """Paint a scene, anti-aliased, as an RGB picture of `width` x `height` pixels."""
    image = Image.new("RGB", (scene.width, scene.height), scene.background)
    for shape in scene.shapes:
        _paint(image, shape)
    if scene.noise:
        noise = np.random.default_rng(scene.noise_seed).normal(
            0.0, scene.noise, (scene.height, scene.width, 3)
        )
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    if scene.jpeg_quality is not None:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=scene.jpeg_quality)
        image = Image.open(buffer).convert("RGB")
    return image
