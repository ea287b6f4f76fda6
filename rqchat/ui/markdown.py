"""Markdown drawn while it streams.

A finished block is drawn once; of the block that is open only its source is shown, in a place that
is drawn over, and at most `REDRAWS_PER_S` times a second. Code has colours and a line above and
below, but neither frame nor indentation, so that it can be copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.constrain import Constrain
from rich.markdown import BlockQuote, Heading, Markdown, MarkdownElement
from rich.rule import Rule
from rich.segment import Segment
from rich.text import Text

from rqchat.ui.code_lines import CodeLines
from rqchat.ui.console import Screen
from rqchat.ui.markdown_blocks import Block, BlockSplitter
from rqchat.ui.text import MOST_COLUMNS, safe_line, safe_text

__all__ = ["REDRAWS_PER_S", "InChat", "MarkdownAnswer", "render_block"]

REDRAWS_PER_S = 10
_MARK = "● "


@dataclass(frozen=True, slots=True)
class InChat:
    """What an answer of a chat has and one by itself has not: a mark, and numbered code.

    Attributes:
        code_blocks: how many the answers before it had.
    """

    code_blocks: int = 0


class MarkdownAnswer:
    """One answer on a screen.

    Args:
        screen: where to draw; its standard output is a terminal.
        begun: what has been drawn of it already; only its last block is drawn again.
        chat: its place in a chat; None for an answer by itself.
        clock: seconds, for the time between two redraws.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        begun: str = "",
        chat: InChat | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen, self._clock, self._chat = screen, clock, chat
        self._splitter = BlockSplitter()
        self._code = CodeLines("", screen.theme.code)
        self._code_blocks = chat.code_blocks if chat else 0
        self._begun = self._gap = self._in_code = False  # a gap is drawn when something follows
        self._mark = "" if chat is None else "  " if begun else _MARK
        self._drawn_at_s = float("-inf")
        for block in self._splitter.feed(safe_text(begun)):
            self._in_code = block.kind == "code"
            if self._in_code:
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
            mark = "" if self._in_code else self._mark
            self._screen.draft("\n" * self._gap + self._splitter.open, mark=mark)

    def close(self) -> None:
        """The answer is at its end.

        Raises:
            ReaderGoneError: standard output has been closed.
        """
        for block in self._splitter.close():
            self._draw(block)
        self._end_code()
        self._screen.clear_status()

    def _draw(self, block: Block) -> None:
        if block.kind != "code":
            self._end_code()
        if block.kind == "blank":
            self._gap = self._begun
            return
        if self._gap:
            self._screen.block(Text())
        self._begun, self._gap = True, False
        if block.kind == "text":
            self._block(render_block(block.text, self._screen.theme.code))
            return
        line = self._code_line(block)
        if block.first:
            self._begin_code(block.language)
        self._screen.code(line)

    def _block(self, drawn: Markdown) -> None:
        self._screen.block(Constrain(drawn, MOST_COLUMNS - len(self._mark)), self._mark)
        self._mark = " " * len(self._mark)

    def _begin_code(self, language: str) -> None:
        """A line that names the language, and what copies the code."""
        words = [safe_line(language)] if language else []
        if self._chat:
            words.append(f"/copy {self._code_blocks}")
        self._rule(Text(" · ".join(words), style="note"))
        self._in_code, self._mark = True, " " * len(self._mark)

    def _end_code(self) -> None:
        if self._in_code:
            self._in_code = False
            self._rule(Text())

    def _rule(self, title: Text) -> None:
        rule = Rule(title, align="right", style="track")
        self._screen.block(Constrain(rule, MOST_COLUMNS))

    def _code_line(self, block: Block) -> Text:
        """The next line of the code, coloured by what stands before it."""
        if block.first:
            self._code = CodeLines(block.language, self._screen.theme.code)
            self._code_blocks += 1
        return self._code.add(block.text)


def render_block(source: str, code_theme: str) -> Markdown:
    """What rich draws of one block; nothing of `source` is left out but the marks of Markdown."""
    return _Block(source, code_theme)


class _Heading(Heading):
    """Bold, at the left, whatever its level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Quote(BlockQuote):
    """Behind a bar, in the colour of the text around it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        inner = options.update(width=max(options.max_width - 2, 1))
        for line in console.render_lines(self.elements, inner, pad=False):
            yield Segment("▌ ", console.get_style("accent"))
            yield from line
            yield Segment.line()


class _Block(Markdown):
    """Line breaks stay line breaks, tags stay text, and addresses are shown."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "blockquote_open": _Quote,
    }

    def __init__(self, source: str, code_theme: str) -> None:
        # rich's constructor would parse the source by rules of its own.
        super().__init__("", code_theme=code_theme, hyperlinks=False)
        self.markup = source
        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self.parsed = parser.disable("code").parse(source)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"
