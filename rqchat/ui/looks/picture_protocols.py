"""Pictures as three kinds of terminals take them, and which of these a terminal says it is.

kitty's graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol), iTerm2's inline images
(iterm2.com/documentation-images.html), and sixel graphics (DEC STD 070, chapter 9). Each sequence
is made of the numbers of a thumbnail alone.
"""

from __future__ import annotations

import base64
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby

from rqchat.ui.looks.thumbnail import Thumbnail

__all__ = ["picture_sequence", "protocol_of"]

_KITTY_PIECE = 4096  # characters that one of kitty's commands may hold
_BAND_ROWS = 6  # pixels that one sixel stands for
_KITTY_TERMS = ("xterm-kitty", "xterm-ghostty")
_SIXEL_TERMS = re.compile(r"sixel|^(foot|mlterm|yaft|contour)")


def protocol_of(setting: str) -> str:
    """`kitty`, `iterm2`, `sixel` or `blocks`: what the environment says where `setting` is `auto`.

    No terminal is asked: one that gives no answer would be waited for. Within tmux and screen,
    which pass none of these on, it is blocks.
    """
    if setting != "auto":
        return setting
    term, program = os.environ.get("TERM", ""), os.environ.get("TERM_PROGRAM", "")
    if "TMUX" in os.environ or "STY" in os.environ or term.startswith(("tmux", "screen")):
        return "blocks"
    if program in ("iTerm.app", "WezTerm") or os.environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if "KITTY_WINDOW_ID" in os.environ or program == "ghostty" or term in _KITTY_TERMS:
        return "kitty"
    return "sixel" if _SIXEL_TERMS.search(term) else "blocks"


def picture_sequence(protocol: str, picture: Thumbnail) -> str:
    """What a terminal of that kind draws `picture` for, at the cursor; the line is to be ended."""
    if protocol == "kitty":
        return "".join(_kitty(picture))
    if protocol == "iterm2":
        png = _png(picture)
        cells = f"width={picture.columns};height={picture.rows};preserveAspectRatio=1"
        return f"\x1b]1337;File=inline=1;size={len(png)};{cells}:{_base64(png)}\x07"
    return f"\x1bP0;1q{''.join(_sixels(picture))}\x1b\\"


def _kitty(picture: Thumbnail) -> Iterator[str]:
    data = _base64(zlib.compress(picture.rgb))
    # Raw pixels, compressed; q=2: no answer, which would be typed into the prompt
    keys = f"a=T,q=2,f=24,o=z,s={picture.width},v={picture.height},"
    keys += f"c={picture.columns},r={picture.rows},"
    for at in range(0, len(data), _KITTY_PIECE):
        more = int(at + _KITTY_PIECE < len(data))
        yield f"\x1b_G{keys}m={more};{data[at : at + _KITTY_PIECE]}\x1b\\"
        keys = ""


def _png(picture: Thumbnail) -> bytes:
    """A PNG file of three chunks (PNG specification, third edition, sections 5 and 11)."""
    stride = 3 * picture.width
    rows = (picture.rgb[at : at + stride] for at in range(0, len(picture.rgb), stride))
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _sixels(picture: Thumbnail) -> Iterator[str]:
    """Size and colours, then bands of six rows, each colour of a band drawn over the one before."""
    width, rgb = picture.width, picture.rgb
    pixels = [rgb[at : at + 3] for at in range(0, len(rgb), 3)]
    colours = {colour: number for number, colour in enumerate(sorted(set(pixels)))}
    yield f'"1;1;{width};{picture.height}'
    for colour, number in colours.items():
        yield f"#{number};2;" + ";".join(str(round(value * 100 / 255)) for value in colour)
    for top in range(0, len(pixels), width * _BAND_ROWS):
        layers: dict[bytes, list[int]] = defaultdict(lambda: [0] * width)
        for index, colour in enumerate(pixels[top : top + width * _BAND_ROWS]):
            layers[colour][index % width] |= 1 << (index // width)
        for colour, bits in layers.items():
            yield f"#{colours[colour]}{_run_lengths(bits)}$"
        yield "-"


def _run_lengths(bits: list[int]) -> str:
    runs = ((chr(63 + value), len(list(alike))) for value, alike in groupby(bits))
    return "".join(f"!{count}{sixel}" if count > 3 else sixel * count for sixel, count in runs)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
