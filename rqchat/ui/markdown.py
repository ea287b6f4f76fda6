"""Markdown drawn while it streams.

A finished block is drawn once; of the block that is open only its source is shown, in a place that
is drawn over, and at most `REDRAWS_PER_S` times a second. Code has colours but neither frame nor
indentation, so that it can be copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.text import Text

from rqchat.ui.code_lines import CODE_THEME, CodeLines
from rqchat.ui.console import Screen
from rqchat.ui.markdown_blocks import Block, BlockSplitter
from rqchat.ui.text import safe_text

__all__ = ["REDRAWS_PER_S", "MarkdownAnswer", "render_block"]

REDRAWS_PER_S = 10


class MarkdownAnswer:
    """One answer on a screen.

    Args:
        screen: where to draw; its standard output is a terminal.
        begun: what has been drawn of it already; only its last block is drawn again.
        clock: seconds, for the time between two redraws.
    """

    def __init__(
        self, screen: Screen, *, begun: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._screen = screen
        self._clock = clock
        self._splitter = BlockSplitter()
        self._code = CodeLines("")
        self._begun = self._gap = False  # a gap is drawn when something follows
        self._drawn_at_s = float("-inf")
        for block in self._splitter.feed(safe_text(begun)):
            if block.kind == "code":
                self._code_line(block)

    def feed(self, text: str) -> None:
        """The answer goes on with `text`.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        blocks = self._splitter.feed(safe_text(text))
        for block in blocks:
            self._draw(block)
        now_s = self._clock()
        if blocks or now_s - self._drawn_at_s >= 1 / REDRAWS_PER_S:
            self._drawn_at_s = now_s
            self._screen.draft("\n" * self._gap + self._splitter.open)

    def close(self) -> None:
        """The answer is at its end.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        for block in self._splitter.close():
            self._draw(block)
        self._screen.clear_status()

    def _draw(self, block: Block) -> None:
        if block.kind == "blank":
            self._gap = self._begun
            return
        if self._gap:
            self._screen.block(Text())
        self._begun, self._gap = True, False
        if block.kind == "text":
            self._screen.block(render_block(block.text))
            return
        self._screen.code(self._code_line(block))

    def _code_line(self, block: Block) -> Text:
        """The next line of the code, coloured by what stands before it."""
        if block.first:
            self._code = CodeLines(block.language)
        return self._code.add(block.text)


def render_block(source: str) -> Markdown:
    """What rich draws of one block; nothing of `source` is left out but the marks of Markdown."""
    return _Block(source)


class _Heading(Heading):
    """Bold, at the left, whatever its level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Block(Markdown):
    """Line breaks stay line breaks, tags stay text, and addresses are shown."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
    }

    def __init__(self, source: str) -> None:
        # rich's constructor would parse the source by rules of its own.
        super().__init__("", code_theme=CODE_THEME, hyperlinks=False)
        self.markup = source
        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self.parsed = parser.disable("code").parse(source)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"
