"""Pictures of the screen for the docs, made by the real program: `python -m tests.screens`."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.terminals import Terminal

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
COLUMNS = 90
CHAT = ("--model", "pocket", "--no-log")
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # fetched from elsewhere: not for us
_CELL, _BLANK = 12.2, "&#160;"  # the width that rich gives a character; its blank
_INDENTED = re.compile(  # not every viewer keeps the blanks that a text begins with
    r'x="(?P<x>[\d.]+)"(?P<y> y="[\d.]+" )textLength="(?P<length>[\d.]+)"(?P<rest>[^>]*>)'
    rf"(?P<blanks>({_BLANK})+)(?=[^&<]|&#x)"
)
_FACT = "The access code for the north gate is 4711."
_SENTENCES = (
    "The river carries stone and wind from the hill to the harbour.",
    "A lamp burns under the old bridge while the town is asleep.",
    "Every morning the boats go out and come back with the tide.",
)


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture.

    Attributes:
        name: of its file.
        rows: of the terminal.
        arguments: what follows `rqchat`.
        play: types, and returns when the screen is as it should be.
    """

    name: str
    rows: int
    arguments: tuple[str, ...]
    play: Callable[[Terminal, Path], None]


def main() -> None:
    """Write `docs/images/*.svg`, or those that are named."""
    pyte.graphics.TEXT[2] = "+italics"  # it knows no dim, and we write no italics without it
    for shot in SHOTS:
        if shot.name not in (sys.argv[1:] or [shot.name]):
            continue
        with tempfile.TemporaryDirectory() as home:
            svg = _taken(shot, Path(home))
        target = IMAGES / f"{shot.name}.svg"
        target.write_text(svg, encoding="utf-8")
        sys.stdout.write(f"{target.relative_to(ROOT)}: {len(svg):,} characters\n")


def _taken(shot: Shot, home: Path) -> str:
    terminal = Terminal(
        ["-m", "rqchat", *shot.arguments], home=home, columns=COLUMNS, rows=shot.rows
    )
    try:
        shot.play(terminal, home)
        return _picture(terminal, shot)
    finally:
        terminal.close()


def _talk(terminal: Terminal, home: Path) -> None:
    terminal.wait_for("4-bit KV")
    picture = (IMAGES / "shapes.png").relative_to(Path.cwd())
    for line, shown in (
        ("Who are you?", "tokens/s"),
        (f"/image {picture}", "[Image 1"),
        ("What is in this picture?", "star"),
        ("/context", "free"),
    ):
        _say(terminal, line, shown)
    terminal.press("/s")
    terminal.settle(1.0)


def _read(terminal: Terminal, home: Path) -> None:
    """One document is read and answered, another is being read, and the next question waits."""
    prose = [_SENTENCES[number % len(_SENTENCES)] for number in range(1_000)]
    first, second = home / "harbour.txt", home / "letters.txt"
    first.write_text("\n".join([*prose[:300], _FACT, *prose[:200]]))
    second.write_text("\n".join([*prose, _FACT]))
    terminal.wait_for("4-bit KV")
    _say(terminal, f"/file ~/{first.name}", "[File 1")
    _say(terminal, "What is the access code for the north gate?", _FACT)
    _say(terminal, f"/file ~/{second.name}", "[File 2")
    terminal.press("Which gate does the access code 4711 open?\r")
    terminal.wait_for("reading")
    terminal.press("Who are you?\rand while it reads, I type")
    terminal.wait_for(re.compile("reading .*, [4-8]. %"))


def _plan(terminal: Terminal, home: Path) -> None:
    terminal.leave()


def _help(terminal: Terminal, home: Path) -> None:
    terminal.wait_for("4-bit KV")
    _say(terminal, "/help", "Ctrl-Z")


def _say(terminal: Terminal, line: str, shown: str) -> None:
    terminal.press(line + "\r")
    terminal.wait_for(shown)
    terminal.settle(1.0)


SHOTS = (
    Shot("chat", 30, CHAT, _talk),
    Shot("reading", 14, CHAT, _read),
    Shot("plan", 22, ("plan", "--vram", "24GiB"), _plan),
    Shot("help", 40, CHAT, _help),
)


def _picture(terminal: Terminal, shot: Shot) -> str:
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"))  # noqa: SIM115
    for row in range(shot.rows):
        console.print(_row(terminal.cells(row)), soft_wrap=True)
    title = " ".join(("rqchat", *(() if shot.arguments is CHAT else shot.arguments)))
    svg = console.export_svg(title=title, unique_id=shot.name)
    return _INDENTED.sub(_moved, _FONTS.sub("", svg))


def _moved(text: re.Match[str]) -> str:
    """The same text without the blanks before it, as much further to the right."""
    indent = _CELL * (len(text["blanks"]) // len(_BLANK))
    x, length = float(text["x"]) + indent, float(text["length"]) - indent
    return f'x="{x:g}"{text["y"]}textLength="{length:g}"{text["rest"]}'


def _row(cells: list[Any]) -> Text:
    text = Text()
    for style, alike in groupby(cells, _style):
        text.append("".join(cell.data for cell in alike), style)
    text.rstrip()
    return text


def _style(cell: Any) -> Style:
    ink, paper = _colour(cell.fg), _colour(cell.bg)
    return Style(color=ink, bgcolor=paper, bold=cell.bold, dim=cell.italics, reverse=cell.reverse)


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    bright = name.startswith("bright")
    plain = name.removeprefix("bright").replace("brown", "yellow")
    return f"bright_{plain}" if bright else plain


if __name__ == "__main__":
    main()
