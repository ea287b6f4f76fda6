"""Pictures of the chat for the docs, made by the real program: `python -m tests.screens`."""

from __future__ import annotations

import re
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.terminals import Terminal

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
COLUMNS, ROWS = 90, 30
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # fetched from elsewhere: not for us


def main() -> None:
    """Write `docs/images/chat.svg`."""
    with tempfile.TemporaryDirectory() as home:
        terminal = Terminal(
            ["-m", "rqchat", "--model", "pocket", "--no-log"],
            home=Path(home),
            columns=COLUMNS,
            rows=ROWS,
        )
        try:
            _talk(terminal)
            svg = _picture(terminal)
        finally:
            terminal.close()
    target = ROOT / "docs/images/chat.svg"
    target.write_text(svg, encoding="utf-8")
    sys.stdout.write(f"{target.relative_to(ROOT)}: {len(svg):,} characters\n")


def _talk(terminal: Terminal) -> None:
    terminal.wait_for("4-bit KV")
    picture = (ROOT / "docs/images/shapes.png").relative_to(Path.cwd())
    for line, shown in (
        ("Who are you?", "tokens/s"),
        (f"/image {picture}", "[Image 1"),
        ("What is in this picture?", "star"),
        ("/context", "free"),
    ):
        terminal.press(line + "\r")
        terminal.wait_for(shown)
        terminal.settle(1.0)
    terminal.press("/s")
    terminal.settle(1.0)


def _picture(terminal: Terminal) -> str:
    console = Console(record=True, width=COLUMNS, file=open("/dev/null", "w"))  # noqa: SIM115
    for row in range(ROWS):
        console.print(_row(terminal.cells(row)), soft_wrap=True)
    svg = console.export_svg(title="rqchat", unique_id="chat")
    return _FONTS.sub("", svg)


def _row(cells: list[Any]) -> Text:
    text = Text()
    for style, alike in groupby(cells, _style):
        text.append("".join(cell.data for cell in alike), style)
    text.rstrip()
    return text


def _style(cell: Any) -> Style:
    ink, paper = _colour(cell.fg), _colour(cell.bg)
    return Style(color=ink, bgcolor=paper, bold=cell.bold, reverse=cell.reverse)


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
