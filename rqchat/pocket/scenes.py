"""Scenes of the pocket model's picture world: one to four plain shapes on a plain background.

A `Scene` is drawn at random (`sample_scene`) and painted (`render`). Scenes in which a word could
be argued about, such as a shape between "left" and "centre", are never drawn. All lengths are
fractions: x of the frame's width, y of its height, sizes of sqrt(width * height). Everything
depends on the given `random.Random` only.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise
from random import Random

import numpy as np
from PIL import Image, ImageDraw

__all__ = [
    "APART",
    "COLOURS",
    "KINDS",
    "MAX_SHAPES",
    "RGB",
    "SAME",
    "SIZE_MIN",
    "Scene",
    "Shape",
    "ordered",
    "outline",
    "place",
    "render",
    "sample_scene",
]

RGB = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

KINDS = ("circle", "square", "rectangle", "triangle", "star", "cross", "ring", "heart")
MAX_SHAPES = 4

# Several well-known values per name (X11, CSS, common palettes); shades lie between two of them.
COLOURS: dict[str, tuple[RGB, ...]] = {
    "red": ((255, 0, 0), (214, 20, 20), (235, 60, 50), (220, 20, 60)),
    "orange": ((255, 165, 0), (255, 140, 0), (255, 120, 10), (240, 150, 40)),
    "yellow": ((255, 255, 0), (255, 215, 0), (255, 235, 59), (240, 225, 40)),
    "green": ((0, 128, 0), (0, 255, 0), (34, 139, 34), (46, 204, 64), (76, 175, 80), (0, 100, 0)),
    "blue": ((0, 0, 255), (30, 144, 255), (65, 105, 225), (0, 0, 139), (33, 110, 243)),
    "purple": ((128, 0, 128), (160, 32, 240), (102, 51, 153), (148, 0, 211), (142, 68, 173)),
    "pink": ((255, 192, 203), (255, 105, 180), (255, 150, 190), (255, 130, 170)),
    "brown": ((139, 69, 19), (165, 42, 42), (150, 75, 0), (101, 67, 33), (160, 82, 45)),
    "black": ((0, 0, 0), (10, 10, 10), (28, 28, 32)),
    "white": ((255, 255, 255), (245, 245, 245), (250, 250, 245)),
    "gray": ((128, 128, 128), (169, 169, 169), (105, 105, 105), (150, 150, 155)),
}

# Centres lie in these bands or not at all, so that "left" and "centre" cannot be confused.
_LOW, _MIDDLE_LOW, _MIDDLE_HIGH, _HIGH = 0.39, 0.43, 0.57, 0.61
# Nearer than SAME, centres count as aligned; farther than APART, as one beside the other.
SAME, APART = 0.05, 0.11
SIZE_MIN, SIZE_MAX = 0.12, 0.62
_MIN_DISTANCE_RGB = 85.0
_SUPERSAMPLE = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape; `x`, `y` is the middle of its bounding box, `size` its longer side, unturned.

    `angle` is in degrees; `variant` in 0..1 chooses among the forms of a kind: how long a
    rectangle, how thick a ring.
    """

    kind: str
    colour: str
    rgb: RGB
    x: float
    y: float
    size: float
    angle: float = 0.0
    variant: float = 0.5
    border: RGB | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """Shapes on a plain background of `width` x `height` pixels.

    `background_name` is None where none of the eleven names fits. `noise` is the standard deviation
    added to 8-bit values, drawn from `noise_seed`; `jpeg_quality` None means no JPEG round trip.
    """

    shapes: tuple[Shape, ...]
    background: RGB
    background_name: str | None
    width: int
    height: int
    noise: float = 0.0
    noise_seed: int = 0
    jpeg_quality: int | None = None


# Forms


def _regular(count: int, radii: tuple[float, ...] = (1.0,)) -> list[Point]:
    steps = count * len(radii)
    angles = [2 * math.pi * i / steps - math.pi / 2 for i in range(steps)]
    return [
        (radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a))
        for i, a in enumerate(angles)
    ]


def _box(width: float) -> list[Point]:
    return [(-width, -1.0), (width, -1.0), (width, 1.0), (-width, 1.0)]


def _cross(arm: float) -> list[Point]:
    corner = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    turned = corner
    points: list[Point] = []
    for _ in range(4):
        points += turned
        turned = [(-y, x) for x, y in turned]
    return points


def _heart() -> list[Point]:
    # The usual heart curve: x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t.
    ts = [2 * math.pi * i / 64 for i in range(64)]
    return [
        (
            16 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
        )
        for t in ts
    ]


_FORMS: dict[str, Callable[[float], list[Point]]] = {
    "circle": lambda v: _regular(64),
    "ring": lambda v: _regular(64),
    "square": lambda v: _box(1.0),
    "rectangle": lambda v: _box(0.4 + 0.2 * v),
    "triangle": lambda v: [(0.0, -1.0), (0.8 + 0.4 * v, 1.0), (-0.8 - 0.4 * v, 1.0)],
    "star": lambda v: _regular(5, (1.0, 0.36 + 0.16 * v)),
    "cross": lambda v: _cross(0.24 + 0.16 * v),
    "heart": lambda v: _heart(),
}


def _bounds(points: Iterable[Point]) -> Box:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def outline(shape: Shape) -> list[Point]:
    """The polygon of a shape, its bounding box centred on (0, 0), in units of sqrt(w * h)."""
    points = _FORMS[shape.kind](shape.variant)
    left, top, right, bottom = _bounds(points)
    scale = shape.size / max(right - left, bottom - top)
    cos, sin = math.cos(math.radians(shape.angle)), math.sin(math.radians(shape.angle))
    turned = [(scale * (x * cos - y * sin), scale * (x * sin + y * cos)) for x, y in points]
    left, top, right, bottom = _bounds(turned)
    return [(x - (left + right) / 2, y - (top + bottom) / 2) for x, y in turned]


def _hole(shape: Shape) -> float:
    """Inner radius of a ring as a fraction of the outer one."""
    return 0.45 + 0.3 * shape.variant


# Places and order


def _band(value: float) -> int | None:
    """0, 1 or 2 for low, middle or high; None between them."""
    if value <= _LOW:
        return 0
    if _MIDDLE_LOW <= value <= _MIDDLE_HIGH:
        return 1
    return 2 if value >= _HIGH else None


def place(shape: Shape) -> tuple[int, int]:
    """(column, row) of a shape's centre: 0 left or top, 1 centre, 2 right or bottom.

    Raises ValueError in between.
    """
    column, row = _band(shape.x), _band(shape.y)
    if column is None or row is None:
        raise ValueError(f"no clear place for a shape at ({shape.x:.2f}, {shape.y:.2f})")
    return column, row


def _order(shapes: tuple[Shape, ...]) -> tuple[Shape, ...] | None:
    """Left column to right, top to bottom; inside one place by x, or by y where x is the same."""
    result: list[Shape] = []
    for key in sorted({place(s) for s in shapes}):
        group = sorted((s for s in shapes if place(s) == key), key=lambda s: s.x)
        if any(b.x - a.x < APART for a, b in pairwise(group)):
            if group[-1].x - group[0].x > SAME:
                return None
            group.sort(key=lambda s: s.y)
            if any(b.y - a.y < APART for a, b in pairwise(group)):
                return None
        result += group
    return tuple(result)


def ordered(scene: Scene) -> tuple[Shape, ...]:
    """The shapes in the order in which they are told. Raises ValueError where no order is clear."""
    shapes = _order(scene.shapes)
    if shapes is None:
        raise ValueError("two shapes share a place and no order between them is clear")
    return shapes


# Sampling


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
        left, top, right, bottom = _bounds(outline(shape))
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
    if any(_band(s.x) is None or _band(s.y) is None for s in shapes):
        return False
    if any(math.dist(s.rgb, background) < _MIN_DISTANCE_RGB for s in shapes):
        return False
    boxes = _boxes(shapes, width, height)
    right, bottom = math.sqrt(width / height) - 0.01, math.sqrt(height / width) - 0.01
    if any(b[0] < 0.01 or b[1] < 0.01 or b[2] > right or b[3] > bottom for b in boxes):
        return False
    return _are_apart(boxes, 0.02) and _order(shapes) is not None


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
    limit = min(SIZE_MAX if count == 1 else 0.62 / math.sqrt(count - 0.6), 0.85 * short)
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


# Painting


def _paint(image: Image.Image, shape: Shape) -> None:
    unit = math.sqrt(image.width * image.height)
    points = outline(shape)
    left, top, right, bottom = _bounds(points)
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
