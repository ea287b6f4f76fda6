"""Pictures of the screen for the docs, made by the real program: `python -m tests.screens`.

The sheets `way-COLUMNS.svg` show a new user's way in terminals of several widths, one in light
colours and one without any.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

from tests.terminals import Terminal

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
CHAT = ("--model", "pocket", "--no-log")
LOADED = re.compile("room for 32,768 tokens")
ANSWERED = re.compile(r"^[\d,]+ tokens · [\d.,]+ tokens/s", re.MULTILINE)
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
        columns: of the terminal.
        environment: of the program.
        program: how Python begins it.
    """

    name: str
    rows: int
    arguments: tuple[str, ...]
    play: Callable[[Stage], None]
    columns: int = 90
    environment: Mapping[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("-m", "rqchat")


class Stage:
    """A terminal that a shot is played on, and what is to be shown of it."""

    def __init__(self, shot: Shot, home: Path) -> None:
        self.shot, self.home = shot, home
        self.rows: list[list[Any]] = []  # of a sheet; without any the last screen is the picture
        self.terminal = self._started(shot.arguments)

    def restart(self, *arguments: str) -> None:
        """Another run of the program in the same home."""
        self.terminal.close()
        self.terminal = self._started(arguments)

    def say(self, line: str, shown: str | re.Pattern[str], *, times: int = 1) -> None:
        """Type a line, and wait until `shown` is there so many times, and all is quiet."""
        self.terminal.press(line + "\r")
        self.terminal.wait_for(shown, times=times)
        self.terminal.settle(1.0)

    def keep(self, caption: str, *, whole: bool = False) -> None:
        """Show the screen as it is now, or `whole` what has scrolled away too, on the sheet."""
        screen, rows = self.terminal, []
        if whole:
            rows += screen.scrolled
        rows += [screen.cells(row) for row in range(self.shot.rows)]
        while rows and not "".join(cell.data for cell in rows[-1]).strip():
            rows.pop()
        title = f"-- {caption} ".ljust(self.shot.columns, "-")[: self.shot.columns]
        mark = pyte.screens.Char(" ", reverse=True)
        self.rows += [[mark._replace(data=letter) for letter in title], *rows, []]

    def _started(self, arguments: tuple[str, ...]) -> Terminal:
        return Terminal(
            [*self.shot.program, *arguments],
            home=self.home,
            columns=self.shot.columns,
            rows=self.shot.rows,
            stdin=None,
            COLORTERM="truecolor",
            **self.shot.environment,
        )


def main() -> None:
    """Write `docs/images/*.svg`, or those that are named."""
    pyte.graphics.TEXT[2] = "+italics"  # it knows no dim, and we write no italics without it
    for shot in SHOTS:
        if shot.name not in (sys.argv[1:] or [shot.name]):
            continue
        with tempfile.TemporaryDirectory() as home:
            stage = Stage(shot, Path(home))
            try:
                shot.play(stage)
                last = [stage.terminal.cells(row) for row in range(shot.rows)]
            finally:
                stage.terminal.close()
        svg = picture(stage.rows or last, shot)
        target = IMAGES / f"{shot.name}.svg"
        target.write_text(svg, encoding="utf-8")
        sys.stdout.write(f"{target.relative_to(ROOT)}: {len(svg):,} characters\n")


def _talk(stage: Stage) -> None:
    stage.terminal.wait_for(LOADED)
    picture = (IMAGES / "shapes.png").relative_to(Path.cwd())
    stage.say("Who are you?", ANSWERED)
    stage.say(f"What is in this picture? {picture}", ANSWERED, times=2)
    stage.say("/context", "free")
    stage.terminal.press("/s")
    stage.terminal.settle(1.0)


def _written(stage: Stage) -> None:
    """An answer that no model wrote: the pocket model knows no Markdown."""
    stage.terminal.wait_for("room for")
    stage.say("show me how to count the words of a file", ANSWERED)
    stage.say("/think show", "They want words.")


def _read(stage: Stage) -> None:
    """One document is read and answered, another is being read, and the next question waits."""
    terminal = stage.terminal
    first, second = _documents(stage.home)
    terminal.wait_for(LOADED)
    question = "What is the access code for the north gate?"
    stage.say(f"/file ~/{first} {question}", ANSWERED)
    stage.say(f"/file ~/{second}", "[File 2")
    terminal.press("Which gate does the access code 4711 open?\r")
    terminal.wait_for("reading")
    terminal.press("Who are you?\rand while it reads, I type")
    terminal.wait_for(re.compile("reading .* [4-8]. %"))


def _way(stage: Stage) -> None:
    """What somebody does in the first ten minutes."""
    terminal = stage.terminal
    first, second = _documents(stage.home)
    _draw_shapes(stage.home / "two shapes.png")
    terminal.wait_for("you can type")
    terminal.press("Who are you?\r")
    terminal.wait_for("waiting: Who are you?")
    stage.keep("while the model loads, a line is typed already")
    terminal.wait_for(ANSWERED)
    terminal.settle(1.0)
    picture = (IMAGES / "shapes.png").relative_to(Path.cwd())
    stage.say(f"What is in this picture? {picture}", ANSWERED, times=2)
    question = "What is the access code for the north gate?"
    stage.say(f"/file ~/{first} {question}", ANSWERED, times=3)
    terminal.press(f"/file ~/{second} Who are you?\r")
    terminal.wait_for(re.compile("reading .* [2-8]. %"))
    stage.keep("while it reads")
    terminal.press("\x03")
    terminal.wait_until_gone("reading")
    terminal.settle(1.0)
    terminal.press("\x15")
    stage.say("/detach", "detached")
    stage.say("What is in this picture? '~/two shapes.png'", ANSWERED, times=4)
    terminal.press(f"/file ~/{second} Who are you?\r")
    terminal.wait_for(re.compile("reading .* [2-8]. %"))
    terminal.press("\x1b")
    terminal.wait_until_gone("reading")
    terminal.settle(1.0)
    stage.keep("Esc stops at once, and the question is back")
    terminal.press("\x15")
    terminal.settle()
    terminal.press("\x04")
    terminal.leave()
    stage.keep("all of it, from the first line to Ctrl-D", whole=True)
    stage.restart("--model", "pocket", "-c")
    terminal = stage.terminal
    terminal.wait_for("room for")
    terminal.settle(1.0)
    stage.keep("rqchat -c goes on")


def _plan(stage: Stage) -> None:
    stage.terminal.leave()


def _help(stage: Stage) -> None:
    stage.terminal.wait_for(LOADED)
    stage.say("/help", "Ctrl-Z")


def _documents(home: Path) -> tuple[str, str]:
    """A document with a fact in it and a longer one."""
    prose = [_SENTENCES[number % len(_SENTENCES)] for number in range(500)]
    (home / "harbour.txt").write_text("\n".join([*prose[:100], _FACT, *prose[:60]]))
    (home / "letters.txt").write_text("\n".join([*prose[:500], _FACT]))
    return "harbour.txt", "letters.txt"


def _draw_shapes(path: Path) -> None:
    """Two of the three shapes of the other picture."""
    Image.open(IMAGES / "shapes.png").crop((0, 0, 430, 420)).save(path)


WRITTEN = ("-c", "from tests.cli import talker; talker.main()")
WAY = ("--model", "pocket")
SHOTS = (
    Shot("chat", 48, CHAT, _talk),
    Shot("answer", 33, (), _written, program=WRITTEN),
    Shot("reading", 24, CHAT, _read),
    Shot("plan", 25, ("plan", "--vram", "24GiB"), _plan),
    Shot("help", 56, CHAT, _help),
    Shot("way-40", 24, WAY, _way, 40),
    Shot("way-80", 24, WAY, _way, 80),
    Shot("way-100", 30, WAY, _way, 100, {"COLORFGBG": "0;15"}),
    Shot("way-300", 30, WAY, _way, 300, {"NO_COLOR": "1"}),
)


def picture(rows: list[list[Any]], shot: Shot) -> str:
    """The rows as an SVG of a terminal."""
    console = Console(record=True, width=shot.columns, file=open("/dev/null", "w"))  # noqa: SIM115
    for row in rows:
        console.print(_row(row), soft_wrap=True)
    title = " ".join(("rqchat", *(() if shot.arguments is CHAT else shot.arguments)))
    theme = DEFAULT_TERMINAL_THEME if "COLORFGBG" in shot.environment else SVG_EXPORT_THEME
    svg = console.export_svg(title=title, theme=theme, unique_id=shot.name)
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
