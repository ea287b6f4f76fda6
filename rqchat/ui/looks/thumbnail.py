"""A picture made small, as plain numbers, and drawn with half blocks where nothing better works.

The text of a picture's file never comes here: a thumbnail is made of the pixels alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

if TYPE_CHECKING:  # it loads pillow, which the prompt does not wait for
    from rqchat.engine.inputs.pictures import Picture

__all__ = ["MOST_ROWS", "HalfBlocks", "Thumbnail", "make_thumbnail"]

MOST_ROWS = 8
_MOST_COLUMNS = 40
_COLOURS = 128  # of sixel graphics; more are seldom seen in so small a picture


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """Pixels, and the cells of a terminal that they are to fill.

    Attributes:
        width, height: pixels.
        rgb: three bytes for each pixel, row by row; at most 128 different colours.
        columns, rows: cells; at most 8 rows.
    """

    width: int
    height: int
    rgb: bytes
    columns: int
    rows: int


def make_thumbnail(picture: Picture, columns: int, *, cell: tuple[int, int]) -> Thumbnail:
    """`picture` in at most so many columns.

    Args:
        cell: pixels of a cell, width and height; twice as high as wide or nearly so.
    """
    width, height = picture.image.size
    most = max(min(columns, _MOST_COLUMNS), 1)
    # As high as it may be; less high where it would be too wide then
    scale = min(MOST_ROWS * cell[1] / height, most * cell[0] / width)
    cells_wide = max(1, min(most, round(width * scale / cell[0])))
    cells_high = max(1, min(MOST_ROWS, round(height * scale / cell[1])))
    size = cells_wide * cell[0], cells_high * cell[1]
    small = picture.image.resize(size).quantize(_COLOURS).convert("RGB")
    return Thumbnail(*size, small.tobytes(), cells_wide, cells_high)


class HalfBlocks:
    """A thumbnail of 1 x 2 pixels a cell as text: the upper half in front, the lower behind."""

    def __init__(self, thumbnail: Thumbnail) -> None:
        self._thumbnail = thumbnail

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, rgb = self._thumbnail.width, self._thumbnail.rgb
        colours = [Color.from_rgb(*rgb[at : at + 3]) for at in range(0, len(rgb), 3)]
        for top in range(0, len(colours), 2 * width):
            upper, lower = colours[top : top + width], colours[top + width : top + 2 * width]
            for front, behind in zip(upper, lower, strict=True):
                yield Segment("▀", Style(color=front, bgcolor=behind))
            yield Segment.line()
