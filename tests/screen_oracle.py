"""What may come out at the terminal's end: a judge of all that was written there."""

from __future__ import annotations

import base64
import re
import struct
import zlib

__all__ = ["FOREIGN_STYLE", "MISCHIEF", "foreign_sequences", "own_drawings"]

FOREIGN_STYLE = "\x1b[38;5;201m"  # a colour that is none of ours
MISCHIEF = (
    *("\x1bc", "\x1b]0;owned\x07", "\x1b[2J", "\x1bPq\x1b\\", "\x9b2J", "\x08\x7f", FOREIGN_STYLE),
    # Pictures, well made: in a text they are as foreign as any other sequence
    "\x1b_Ga=T,q=2,f=24,o=z,s=1,v=1,c=1,r=1,m=0;eJz7DwABAQEA\x1b\\",
    *("\x1b]1337;File=inline=1:AAAA\x07", '\x1bP0;1q"1;1;1;1#0;2;0;0;0#0@$-\x1b\\'),
    *("\u202edrawkcab", "\u2066isolated", "\r\x0b\x0c", "\ud800\udc1b"),
    *("<ab:%1bc>", "<ab:%C2%9b2J>", "<http://x.y/%1b]0;owned%07>", "[a](ab:%1b[2J)"),
    *("[b](<ab:%0d> '&#27;c')", "![&#x9b;2J](ab:%1bc)", "[c]: ab:%1bc '&#x202e;'\n[c]"),
    *("&#x202e;drawkcab", "&#8294;", "&#27;[2J", "&#x9b;2J", "&#xd800;", "`\x1bc`", "|\x1bc|\n|-|"),
    *("\n```\x1bc\n\x1b]0;owned\x07\n```\n", "\n```python\n'\x9b2J\u202e\n```\n", "# &#x202e;\n"),
)
_STYLE = re.compile(r"\x1b\[[\d;]*m")
_OVER = re.compile(r"\r(?=[^\n]*\x1b\[K)|\x1b\[K")  # a status line over the one before it
_CONTROL = re.compile(
    "\x1b.{0,8}|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def foreign_sequences(written: str) -> list[str]:
    """What a terminal would act on in `written`, beyond our colours and our status line."""
    strange = [FOREIGN_STYLE] if FOREIGN_STYLE in written else []
    return strange + _CONTROL.findall(_OVER.sub("", _STYLE.sub("", written)))


def own_drawings(written: str) -> tuple[str, list[tuple[int, int, bytes]]]:
    """`written` without the pictures in it, and these: width, height, and three bytes a pixel.

    A sequence that holds anything but the pixels of one picture stays where it is, and is foreign:
    other keys than ours, pieces that do not make up a picture, a PNG with a chunk of text.
    """
    drawings: list[tuple[int, int, bytes]] = []

    def taken(found: re.Match[str]) -> str:
        kind = next(reader for name, reader in _READERS.items() if found[name])
        try:
            drawings.append(kind(found[0]))
        except (AssertionError, ValueError, IndexError, zlib.error, struct.error):
            return found[0]
        return ""

    return _DRAWING.sub(taken, written), drawings


_BASE64 = "[A-Za-z0-9+/]*=?=?"
_DRAWING = re.compile(
    rf"(?P<kitty>\x1b_Ga=T,q=2,f=24,o=z,s=\d+,v=\d+,c=\d+,r=[1-8],m=[01];{_BASE64}\x1b\\"
    rf"(?:\x1b_Gm=[01];{_BASE64}\x1b\\)*)"
    rf"|(?P<iterm2>\x1b\]1337;File=inline=1;size=\d+;width=\d+;height=[1-8];"
    rf"preserveAspectRatio=1:{_BASE64}\x07)"
    r'|(?P<sixel>\x1bP0;1q"1;1;\d+;\d+[\d;#!$?-~-]*\x1b\\)'
)


def _read_kitty(sequence: str) -> tuple[int, int, bytes]:
    width, height = (int(re.findall(rf"\b{key}=(\d+)", sequence)[0]) for key in "sv")
    pieces = re.findall(rf"m=([01]);({_BASE64})", sequence)
    assert [more for more, _ in pieces] == ["1"] * (len(pieces) - 1) + ["0"]
    rgb = zlib.decompress(base64.b64decode("".join(piece for _, piece in pieces), validate=True))
    assert len(rgb) == 3 * width * height
    return width, height, rgb


def _read_iterm2(sequence: str) -> tuple[int, int, bytes]:
    png = base64.b64decode(sequence[:-1].rpartition(":")[2], validate=True)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        chunks[kind] = png[at + 8 : at + 8 + length]
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *others = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    rows = zlib.decompress(chunks[b"IDAT"])
    stride = 1 + 3 * width
    assert others == [8, 2, 0, 0, 0] and len(rows) == stride * height and not any(rows[::stride])
    return width, height, b"".join(rows[at + 1 : at + stride] for at in range(0, len(rows), stride))


def _read_sixel(sequence: str) -> tuple[int, int, bytes]:
    """Painted as a terminal would; each colour as the numbers from 0 to 100 that it was given."""
    width, height = map(int, re.findall(r'"1;1;(\d+);(\d+)', sequence)[0])
    body = sequence[:-2].partition('"')[2].partition("#")[2]
    canvas, palette = bytearray(3 * width * height), dict[str, bytes]()
    colour, x, top = b"", 0, 0
    for token in re.findall(r"#\d+(?:;2;\d+;\d+;\d+)?|!\d+.|.", f"#{body}"):
        if token[0] == "#" and ";" in token:
            number, _, *values = token[1:].split(";")
            palette[number] = bytes(map(int, values))
        elif token[0] == "#":
            colour = palette[token[1:]]
        elif token in "$-":
            x, top = 0, top + 6 * (token == "-")
        else:
            count, bits = (int(token[1:-1]) if token[0] == "!" else 1), ord(token[-1]) - 63
            for column in range(x, x + count):
                for row in (bit for bit in range(6) if bits >> bit & 1):
                    at = 3 * ((top + row) * width + column)
                    assert column < width and top + row < height
                    canvas[at : at + 3] = colour
            x += count
    return width, height, bytes(canvas)


_READERS = {"kitty": _read_kitty, "iterm2": _read_iterm2, "sixel": _read_sixel}
