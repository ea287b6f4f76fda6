"""Code coloured line by line as it comes; what a line costs does not grow with those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.syntax import Syntax
from rich.text import Text

__all__ = ["CodeLines"]

_FEW_LINES = 6
_MOST_LINES = 12
_MOST_CHARACTERS = 4_000
_Token = tuple[Any, str]


class CodeLines:
    """The lines of one block of code.

    A line is coloured after those before it that decide its colours, such as the one that opened a
    string. Lexers tell nothing of their state, so what decides is found by lexing without it.

    Args:
        language: as its fence names it; what nobody knows gets no colours.
        theme: as rich calls it.
    """

    def __init__(self, language: str, theme: str) -> None:
        self._lexer = Syntax("", language).lexer if language else None
        self._theme = Syntax.get_theme(theme)
        self._before: list[str] = []

    def add(self, line: str) -> Text:
        """The next line, coloured."""
        if self._lexer is None or len(line) > _MOST_CHARACTERS:
            return Text(line)
        tokens = self._tokens(line, self._before)
        self._before = self._deciding([*self._before, line], tokens)
        drawn = Text()
        for kind, piece in tokens:
            drawn.append(piece, self._theme.get_style_for_token(kind))
        # A lexer may leave something out; code without colours is better than wrong code
        return drawn if drawn.plain == line else Text(line)

    def _deciding(self, lines: list[str], tokens: list[_Token]) -> list[str]:
        """What a line after `lines` has to be lexed with; `tokens` are those of the last one."""
        line = lines[-1]
        if tokens and not any({"String", "Comment"} & set(kind) for kind, _ in tokens):
            return [line]  # nothing is open
        if len(lines) > _FEW_LINES and tokens != self._tokens(line, ()):
            # The first line as a rule has opened what is open, and stays
            for dropped in (0, 1):
                fewer = lines[:dropped] + lines[dropped + 1 :]
                if self._tokens(line, fewer[:-1]) == tokens:
                    return fewer
        is_too_much = len(lines) > _MOST_LINES or sum(map(len, lines)) > _MOST_CHARACTERS
        return lines[1:] if is_too_much else lines

    def _tokens(self, line: str, before: Sequence[str]) -> list[_Token]:
        assert self._lexer is not None
        context = "".join(f"{each}\n" for each in before)
        start, end = len(context), len(context) + len(line)
        return [
            (kind, piece[max(start - index, 0) : end - index])
            for index, kind, piece in self._lexer.get_tokens_unprocessed(f"{context}{line}\n")
            if index + len(piece) > start and index < end
        ]
