"""Pictures as the vision tower gets them, with what the generator knows about every soft token.

A soft token stands for a cell of 48 x 48 pixels after Gemma 4's own resizing. A batch holds
pictures of one grid of cells, so nothing in it is padded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from rqchat.pocket.training.vision.painting import render
from rqchat.pocket.training.vision.scene_sampling import sample_scene
from rqchat.pocket.training.vision.scenes import (
    COLOURS,
    KINDS,
    SIZE_MIN,
    Scene,
    Shape,
    ordered,
    outline,
    place,
)

__all__ = [
    "COLOUR_NAMES",
    "IGNORE",
    "SOFT_TOKENS",
    "Batch",
    "Grid",
    "grid_for",
    "make_batch",
    "patches",
    "sample_batch",
]

SOFT_TOKENS = 70
COLOUR_NAMES = tuple(COLOURS)
IGNORE = -100
_PATCH, _POOL = 16, 3
_CELL = _PATCH * _POOL
_FINE = 8  # the coverage of a cell is counted on _FINE x _FINE points
_MIN_SHARE = 0.05  # cells with a smaller share of a centre are not asked about it
_MIN_SHAPE_PX = 42  # smaller shapes are not shown at the small budgets

Grid = tuple[int, int]
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """`pixels` [b, patches, 768] uint8, `positions` [b, patches, 2] int64 as (x, y).

    `labels` hold the facts of all cells, {fact: [b * cells, ...]}; `grid` is (columns, rows).
    """

    pixels: Tensor
    positions: Tensor
    labels: dict[str, Tensor]
    scenes: tuple[Scene, ...]
    grid: Grid


def grid_for(width: int, height: int, budget: int) -> Grid:
    """(columns, rows) of soft tokens that Gemma 4's image processor makes of such a picture."""
    tall, wide = get_aspect_ratio_preserving_size(height, width, _PATCH, budget * _POOL**2, _POOL)
    return wide // _CELL, tall // _CELL


def patches(image: Image.Image, grid: Grid) -> Array:
    """What the processor makes of a picture, unscaled: [9 * cells, 768] uint8.

    A patch lists its values in (row, column, channel) order.
    """
    size = (grid[0] * _CELL, grid[1] * _CELL)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    columns, rows = grid[0] * _POOL, grid[1] * _POOL
    pixels = np.asarray(image).reshape(rows, _PATCH, columns, _PATCH, 3)
    return pixels.transpose(0, 2, 1, 3, 4).reshape(rows * columns, -1)


def _coverage(scene: Scene, shapes: tuple[Shape, ...], grid: Grid) -> Array:
    """Share of every cell that each shape covers, rings filled: [rows, columns, shapes]."""
    wide, tall = grid[0] * _FINE, grid[1] * _FINE
    canvas = Image.new("L", (wide, tall))
    draw = ImageDraw.Draw(canvas)
    stretch = math.sqrt(scene.width / scene.height)
    for index, shape in enumerate(shapes):
        draw.polygon(
            [
                ((shape.x + x / stretch) * wide, (shape.y + y * stretch) * tall)
                for x, y in outline(shape)
            ],
            fill=index + 1,
        )
    cells = np.asarray(canvas).reshape(grid[1], _FINE, grid[0], _FINE)
    return np.stack([(cells == i + 1).mean(axis=(1, 3)) for i in range(len(shapes))], axis=-1)


def _covering(scene: Scene, shapes: tuple[Shape, ...], grid: Grid) -> dict[str, Array]:
    """Kind and colour of the shape that covers each cell; IGNORE where it covers little."""
    share = _coverage(scene, shapes, grid).reshape(grid[0] * grid[1], -1)
    best, most = share.argmax(-1), share.max(-1)
    # Between 8 and 25 % either answer could be called right, so the cell is not asked.
    unsure, none = (most > 0.08) & (most < 0.25), most <= 0.08
    kinds = np.array([KINDS.index(s.kind) for s in shapes])[best]
    colours = np.array([COLOUR_NAMES.index(s.colour) for s in shapes])[best]
    return {
        "cover_kind": np.where(unsure, IGNORE, np.where(none, len(KINDS), kinds)),
        "cover_colour": np.where(unsure, IGNORE, np.where(none, len(COLOUR_NAMES), colours)),
    }


def _centre_cells(shape: Shape, grid: Grid) -> Iterator[tuple[int, float, tuple[float, float]]]:
    """(cell, share, offset in cells) of the four cells around a shape's centre.

    The shares are bilinear and sum to 1, so that no jump lies where a centre crosses a border.
    """
    across = min(max(shape.x * grid[0] - 0.5, 0.0), grid[0] - 1.0)
    down = min(max(shape.y * grid[1] - 0.5, 0.0), grid[1] - 1.0)
    for y in {math.floor(down), math.ceil(down)}:
        for x in {math.floor(across), math.ceil(across)}:
            share = (1 - abs(across - x)) * (1 - abs(down - y))
            yield y * grid[0] + x, share, (across - x, down - y)


def _labels(scene: Scene, grid: Grid) -> dict[str, Array]:
    """What the generator knows of every cell, row by row: {fact: [cells, ...]}.

    IGNORE stands where nothing is asked.
    """
    columns, rows = grid
    cells = rows * columns
    shapes = ordered(scene)
    out: dict[str, Array] = {
        **_covering(scene, shapes, grid),
        **{key: np.full(cells, IGNORE) for key in ("kind", "colour", "column", "row", "rank")},
        "centre": np.zeros(cells, np.float32),
        "count": np.full(cells, len(shapes) - 1),
        "background": np.full(cells, IGNORE),
        "offset": np.zeros((cells, 2), np.float32),
        "size": np.zeros((cells, 1), np.float32),
    }
    if scene.background_name:
        out["background"][:] = COLOUR_NAMES.index(scene.background_name)
    for rank, shape in enumerate(shapes):
        for cell, share, offset in _centre_cells(shape, grid):
            # A cell near two centres tells of the one that it holds the larger share of.
            if share < max(_MIN_SHARE, out["centre"][cell]):
                continue
            out["kind"][cell] = KINDS.index(shape.kind)
            out["colour"][cell] = COLOUR_NAMES.index(shape.colour)
            out["column"][cell], out["row"][cell] = place(shape)
            out["rank"][cell] = rank
            out["centre"][cell] = share
            out["offset"][cell] = offset
            out["size"][cell] = shape.size
    ys, xs = np.divmod(np.arange(cells), columns)
    out["position"] = np.stack([(xs + 0.5) / columns, (ys + 0.5) / rows], -1).astype(np.float32)
    return out


def make_batch(scenes: list[Scene], grid: Grid) -> Batch:
    """Render scenes that are to share one grid and label every soft token."""
    pixels = np.stack([patches(render(scene), grid) for scene in scenes])
    labels = [_labels(scene, grid) for scene in scenes]
    ys, xs = np.divmod(np.arange(pixels.shape[1]), grid[0] * _POOL)
    positions = torch.from_numpy(np.stack([xs, ys], -1)).expand(len(scenes), -1, -1)
    merged = {key: torch.from_numpy(np.concatenate([x[key] for x in labels])) for key in labels[0]}
    return Batch(torch.from_numpy(pixels), positions, merged, tuple(scenes), grid)


def sample_batch(rng: Random, budget: int, count: int) -> Batch:
    """Scenes with one random shape of frame; their sizes in pixels differ, their grid does not."""
    ratio = 1.0 if rng.random() < 0.3 else math.exp(rng.uniform(-1, 1) * math.log(2.5))
    target = _CELL * math.sqrt(budget)
    grid = grid_for(round(1000 * math.sqrt(ratio)), round(1000 / math.sqrt(ratio)), budget)
    scenes: list[Scene] = []
    while len(scenes) < count:
        side = target * math.exp(rng.uniform(-1.0, 0.45))
        near = ratio * math.exp(rng.uniform(-0.07, 0.07))
        size = round(side * math.sqrt(near)), round(side / math.sqrt(near))
        if grid_for(*size, budget) == grid:
            least = max(SIZE_MIN, _MIN_SHAPE_PX / target)
            scenes.append(sample_scene(rng, size_px=size, min_size=least))
    return make_batch(scenes, grid)
