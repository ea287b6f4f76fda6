"""Scenes drawn at random, in which no word could be argued about.

Everything depends on the given `random.Random` alone."""

from __future__ import annotations

import math
from itertools import combinations
from random import Random

from rqchat.pocket.training.vision.scenes import (
    COLOURS,
    KINDS,
    MAX_SHAPES,
    RGB,
    SIZE_MIN,
    Box,
    Point,
    Scene,
    Shape,
    band_of,
    bounds,
    clear_order,
    outline,
)

__all__ = ["sample_scene"]

_SIZE_MAX = 0.62
_MIN_DISTANCE_RGB = 85.0


def _shade(rng: Random, name: str) -> RGB:
    first, second = rng.choice(COLOURS[name]), rng.choice(COLOURS[name])
    if rng.random() < 0.3:
        return first
    mix = rng.random()
    red, green, blue = (
        min(255, max(0, round(a + (b - a) * mix + rng.uniform(-6, 6))))
        for a, b in zip(first, second, strict=True)
    )
    return red, green, blue


def _sample_background(rng: Random) -> tuple[RGB, str | None]:
    pick = rng.random()
    if pick < 0.35:
        return _shade(rng, "white"), "white"
    if pick < 0.75:
        name = rng.choice(list(COLOURS))
        return _shade(rng, name), name
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256)), None


def _sample_angle(rng: Random, kind: str) -> float:
    if kind in ("star", "triangle", "cross") and rng.random() < 0.15:
        return rng.uniform(0, 360)
    upright = 90.0 if kind == "rectangle" and rng.random() < 0.6 else 0.0
    return upright + (rng.uniform(-14, 14) if rng.random() < 0.3 else 0.0)


def _sample_size_px(rng: Random) -> tuple[int, int]:
    side = math.exp(rng.uniform(math.log(140), math.log(640)))
    ratio = 1.0 if rng.random() < 0.25 else math.exp(rng.uniform(-1, 1) * math.log(2.5))
    return round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio))


def _slots(rng: Random, count: int) -> list[Point] | None:
    """Centres in a row, a column or a 2 x 2 square for some of the scenes; None: anywhere."""
    pick = rng.random()
    line = [((i + 0.5) / count, rng.uniform(0.46, 0.54)) for i in range(count)]
    if count == 1 or pick > 0.4:
        return [(0.5, 0.5)] if count == 1 and pick < 0.25 else None
    if count == MAX_SHAPES and pick < 0.15:
        return [(0.25 + 0.5 * (i % 2), 0.25 + 0.5 * (i // 2)) for i in range(count)]
    return [(y, x) for x, y in line] if pick < 0.25 else line


def _sample_shape(rng: Random, size: float, slot: Point | None) -> Shape:
    kind, colour = rng.choice(KINDS), rng.choice(list(COLOURS))
    if slot:
        x, y = slot[0] + rng.uniform(-0.012, 0.012), slot[1] + rng.uniform(-0.012, 0.012)
    else:
        x, y = rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95)
    return Shape(
        kind,
        colour,
        _shade(rng, colour),
        x,
        y,
        size,
        _sample_angle(rng, kind),
        rng.random(),
        _shade(rng, rng.choice(("black", "white", "gray"))) if rng.random() < 0.12 else None,
    )


def _boxes(shapes: tuple[Shape, ...], width: int, height: int) -> list[Box]:
    """Bounding boxes (left, top, right, bottom) in units of sqrt(width * height)."""
    unit_x, unit_y = math.sqrt(width / height), math.sqrt(height / width)
    boxes = []
    for shape in shapes:
        left, top, right, bottom = bounds(outline(shape))
        x, y = shape.x * unit_x, shape.y * unit_y
        boxes.append((x + left, y + top, x + right, y + bottom))
    return boxes


def _are_apart(boxes: list[Box], gap: float) -> bool:
    return not any(
        a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap
        for a, b in combinations(boxes, 2)
    )


def _is_clear(shapes: tuple[Shape, ...], background: RGB, width: int, height: int) -> bool:
    """Whether all shapes lie in the frame, apart and visible, and every word on them is certain."""
    if any(band_of(s.x) is None or band_of(s.y) is None for s in shapes):
        return False
    if any(math.dist(s.rgb, background) < _MIN_DISTANCE_RGB for s in shapes):
        return False
    boxes = _boxes(shapes, width, height)
    right, bottom = math.sqrt(width / height) - 0.01, math.sqrt(height / width) - 0.01
    if any(b[0] < 0.01 or b[1] < 0.01 or b[2] > right or b[3] > bottom for b in boxes):
        return False
    return _are_apart(boxes, 0.02) and clear_order(shapes) is not None


def _is_apart(shapes: tuple[Shape, ...], width: int, height: int, distance: float) -> bool:
    unit_x, unit_y = math.sqrt(width / height), math.sqrt(height / width)
    return all(
        math.hypot((a.x - b.x) * unit_x, (a.y - b.y) * unit_y) >= distance
        for a, b in combinations(shapes, 2)
    )


def sample_scene(
    rng: Random, *, size_px: tuple[int, int] | None = None, min_size: float = SIZE_MIN
) -> Scene:
    """Draw an unambiguous scene in which no shape is smaller than `min_size` (0.12 to 0.25).

    `size_px` (width, height) fixes the frame; otherwise it has 140 to 640 pixels a side (geometric
    mean) and a ratio of at most 1 : 2.5.
    """
    width, height = size_px or _sample_size_px(rng)
    count = rng.choices((1, 2, 3, 4), (0.28, 0.28, 0.24, 0.2))[0]
    short = min(width, height) / math.sqrt(width * height)
    limit = min(_SIZE_MAX if count == 1 else 0.62 / math.sqrt(count - 0.6), 0.85 * short)
    while True:
        background, name = _sample_background(rng)
        slots = _slots(rng, count)
        equal = rng.uniform(min_size, limit) if rng.random() < 0.3 else None
        shapes: tuple[Shape, ...] = ()
        for index in range(count):
            for _ in range(30):
                size = equal or rng.uniform(min_size, limit)
                shape = _sample_shape(rng, size, slots[index] if slots else None)
                grown = (*shapes, shape)
                # At least 1.3 cells of the tower, so that hardly a cell has two centres to tell of.
                if _is_apart(grown, width, height, 1.5 * min_size) and _is_clear(
                    grown, background, width, height
                ):
                    shapes = grown
                    break
        if len(shapes) == count:
            break
    return Scene(
        shapes,
        background,
        name,
        width,
        height,
        rng.choice((0.0, 0.0, 0.0, rng.uniform(1, 7))),
        rng.getrandbits(32),
        rng.randint(60, 95) if rng.random() < 0.25 else None,
    )
