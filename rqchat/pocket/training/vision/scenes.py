"""Scenes of the pocket model's picture world: one to four plain shapes on a plain background.

A `Scene` is drawn at random (`scene_sampling.py`) and painted (`painting.py`). Scenes in which a
word could be argued about, such as a shape between "left" and "centre", are never drawn. All
lengths are fractions: x of the frame's width, y of its height, sizes of sqrt(width * height).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

__all__ = [
    "APART",
    "COLOURS",
    "KINDS",
    "MAX_SHAPES",
    "RGB",
    "SAME",
    "SIZE_MIN",
    "Box",
    "Point",
    "Scene",
    "Shape",
    "band_of",
    "bounds",
    "clear_order",
    "ordered",
    "outline",
    "place",
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
SIZE_MIN = 0.12


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


def bounds(points: Iterable[Point]) -> Box:
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def outline(shape: Shape) -> list[Point]:
    """The polygon of a shape, its bounding box centred on (0, 0), in units of sqrt(w * h)."""
    points = _FORMS[shape.kind](shape.variant)
    left, top, right, bottom = bounds(points)
    scale = shape.size / max(right - left, bottom - top)
    cos, sin = math.cos(math.radians(shape.angle)), math.sin(math.radians(shape.angle))
    turned = [(scale * (x * cos - y * sin), scale * (x * sin + y * cos)) for x, y in points]
    left, top, right, bottom = bounds(turned)
    return [(x - (left + right) / 2, y - (top + bottom) / 2) for x, y in turned]


def band_of(value: float) -> int | None:
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
    column, row = band_of(shape.x), band_of(shape.y)
    if column is None or row is None:
        raise ValueError(f"no clear place for a shape at ({shape.x:.2f}, {shape.y:.2f})")
    return column, row


def clear_order(shapes: tuple[Shape, ...]) -> tuple[Shape, ...] | None:
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
    shapes = clear_order(scene.shapes)
    if shapes is None:
        raise ValueError("two shapes share a place and no order between them is clear")
    return shapes
