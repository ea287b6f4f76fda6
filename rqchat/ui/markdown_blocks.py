"""Markdown cut into blocks while it streams: what is finished can be drawn once and for all.

A block ends at a blank line, at a heading's end, before the next item of a list or the next fence.
Within a code fence every line is finished at its end. (CommonMark 0.31, sections 4 and 5.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Block", "BlockSplitter", "code_blocks"]

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_HEADING = re.compile(r"^ {0,3}#{1,6}(\s|$)")
# Not items that are indented further: they belong to the item above them.
_ITEM = re.compile(r"^ {0,1}([-*+]|\d{1,9}[.)])\s")


@dataclass(frozen=True, slots=True)
class Block:
    """A finished piece.

    Attributes:
        kind: `text` is Markdown, `code` one line of code, `blank` a gap.
        text: its source without the last line break.
        language: what a code's fence names.
        first: whether a code line opens its fence's contents.
    """

    kind: Literal["text", "code", "blank"]
    text: str = ""
    language: str = ""
    first: bool = False


class BlockSplitter:
    """Takes pieces of any size and gives finished blocks."""

    def __init__(self) -> None:
        # In pieces: joined for each that comes, a long line would take quadratic time
        self._source: list[str] = []
        self._line: list[str] = []
        self._fence: re.Match[str] | None = None
        self._is_first_code = False

    @property
    def open(self) -> str:
        """All that has come and is in no block yet."""
        return "".join([*self._source, *self._line])

    def feed(self, text: str) -> list[Block]:
        """The blocks that `text` finishes."""
        *lines, last = text.split("\n")
        blocks: list[Block] = []
        for line in lines:
            self._line.append(line)
            blocks += self._take(self._ended_line())
        self._line.append(last)
        return blocks

    def close(self) -> list[Block]:
        """The blocks that are left when no more text comes."""
        line = self._ended_line()
        blocks = self._take(line) if line else []
        self._fence = None
        return blocks + self._finish()

    def _ended_line(self) -> str:
        line = "".join(self._line)
        self._line.clear()
        return line

    def _take(self, line: str) -> list[Block]:
        if self._fence is not None:
            return self._take_code(line)
        opening = _FENCE.match(line)
        if opening:
            self._fence, self._is_first_code = opening, True
            return [*self._finish(), Block("blank")]
        if not line.strip():
            return [*self._finish(), Block("blank")]
        blocks = self._finish() if _HEADING.match(line) or _ITEM.match(line) else []
        self._source.append(line + "\n")
        return [*blocks, *self._finish()] if _HEADING.match(line) else blocks

    def _take_code(self, line: str) -> list[Block]:
        assert self._fence is not None
        fence, bare = self._fence["fence"], line.strip()
        if len(bare) >= len(fence) and set(bare) == {fence[0]}:
            self._fence = None
            return [Block("blank")]
        indent = min(len(self._fence["indent"]), len(line) - len(line.lstrip()))
        language = (self._fence["info"].split() or [""])[0].strip("{}.")
        first, self._is_first_code = self._is_first_code, False
        return [Block("code", line[indent:], language, first)]

    def _finish(self) -> list[Block]:
        source = "".join(self._source).rstrip("\n")
        self._source.clear()
        return [Block("text", source)] if source else []


def code_blocks(text: str) -> list[str]:
    """The contents of each fence of a whole answer, in the order in which the screen counts them;
    empty ones are not counted."""
    splitter = BlockSplitter()
    found: list[str] = []
    for block in [*splitter.feed(text), *splitter.close()]:
        if block.kind == "code":
            found = [*found, ""] if block.first else found
            found[-1] += f"{block.text}\n"
    return found
