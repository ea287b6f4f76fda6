"""Strings for the screen: text that is safe for a terminal, and numbers that people can read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, get_character_cell_size, set_cell_size

__all__ = [
    "MOST_COLUMNS",
    "format_count",
    "format_seconds",
    "one_row",
    "only_colours",
    "picture_chip",
    "safe_line",
    "safe_text",
    "tab_lines",
    "tail",
    "wrapped",
]

MOST_COLUMNS = 100
"""Of what is read line by line: on a wider screen the eye loses the next line."""

# C0 except tab and newline, DEL, C1, and the bidirectional embeddings, overrides and isolates
# that reorder what is shown (Unicode UAX 9).
_CONTROLS = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
_CONTROL = re.compile(_CONTROLS)
_COLOUR_OR_CONTROL = re.compile(rf"(\x1b\[[\d;]*m)|{_CONTROLS}|[\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def safe_text(text: str) -> str:
    """`text` without the characters that a terminal would act on instead of showing them.

    Works character by character, so that it may be applied to each piece of a stream: an escape
    sequence split over two pieces loses its escape character all the same. Lone surrogates, which
    no output encoding takes, become U+FFFD.
    """
    if text.isprintable():  # nearly every piece, and much faster
        return text
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))


def only_colours(text: str) -> str:
    """`text` that was drawn, without what a terminal acts on but colours, bold and their like (SGR,
    ECMA-48 section 8.3.117)."""
    if text.isprintable():
        return text
    return _COLOUR_OR_CONTROL.sub(lambda found: found[1] or "", text)


def safe_line(text: str) -> str:
    """`safe_text` on one line: line breaks and tabs become blanks."""
    return " ".join(safe_text(text).split())


def tab_lines(rows: Iterable[Sequence[str]]) -> str:
    """Rows for other programs: nothing is cut to a width, and tabs are between the columns."""
    return "".join("\t".join(safe_line(cell) for cell in row) + "\n" for row in rows)


def one_row(text: str, columns: int) -> str:
    """`safe_line`, and an ellipsis in place of what does not fit into `columns` cells."""
    line = safe_line(text)
    return line if cell_len(line) <= columns else set_cell_size(line, columns - 1) + "…"


def format_count(count: int) -> str:
    """`262,144`."""
    return f"{count:,}"


def format_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def picture_chip(number: int, width: int, height: int, tokens: int) -> str:
    """`[Image 1: 1280x720, 264 tokens]`."""
    return f"[Image {number}: {width}x{height}, {format_count(tokens)} tokens]"


def wrapped(line: str, columns: int) -> str:
    """`line` broken at blanks into rows of `columns` cells; a longer word is not broken."""
    rows = [""]
    for word in line.split():
        longer = f"{rows[-1]} {word}" if rows[-1] else word
        if rows[-1] and cell_len(longer) > columns:
            rows.append(word)
        else:
            rows[-1] = longer
    return "\n".join(rows)


def tail(text: str, columns: int, rows: int) -> str:
    """The end of `text` that fits into `rows` rows of `columns` cells.

    Rows are broken after a blank where they have one, so that words stay whole as they come.
    """
    # No more characters can be seen, so the work is bounded however long the text has become.
    lines = text[-columns * rows :].split("\n")
    broken = [row for line in lines for row in _rows(line, columns)]
    return "\n".join(broken[-rows:])


def _rows(line: str, columns: int) -> Iterator[str]:
    start = blank = cells = 0  # of the row: its first character, the one after its last blank
    for end, character in enumerate(line):
        cells += get_character_cell_size(character)
        while cells > columns and character != " " and start < end:
            cut = blank if blank > start else end
            yield line[start:cut].rstrip(" ")
            start, cells = cut, cell_len(line[cut : end + 1])
        if character == " ":
            blank = end + 1
    yield line[start:] if cells <= columns else line[start:].rstrip(" ")
