"""Gemma 4's own writing of a tool call, read back: `call:NAME{key:value,...}`.

Keys are bare, strings stand between two quote tokens and hold anything but that token, other
values are bare: numbers, true, false, null, `[...]` and `{...}` (`format_argument` in Google's chat
template).
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["CALL_END", "CALL_START", "QUOTE", "QUOTE_TOKEN", "RESPONSE_START", "read_call"]

CALL_START, CALL_END = "<|tool_call>", "<tool_call|>"
RESPONSE_START = "<|tool_response>"
QUOTE = "\ue002"
"""Stands for the quote token, which text may spell but not be."""
QUOTE_TOKEN = '<|"|>'
_HEAD = re.compile(r"\s*call:([\w.:/-]+)\s*")
_BARE = re.compile(rf"[^,}}\]{QUOTE}]*")
_WORDS = {"true": True, "false": False, "null": None, "None": None}
_MOST_DEPTH = 64


def read_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of the call that `text` is; None where it is none.

    `text` is what stands between the tokens of a call, with `QUOTE` for each quote token.
    """
    head = _HEAD.match(text)
    if head is None:
        return None
    try:
        reader = _Reader(text, head.end())
        arguments = reader.value()
        reader.skip()
    except ValueError:
        return None
    if not isinstance(arguments, dict) or reader.place != len(text):
        return None
    return head[1], arguments


class _Reader:
    """Reads one value after another; raises ValueError at what is none."""

    def __init__(self, text: str, place: int) -> None:
        self._text, self.place, self._depth = text, place, 0

    def value(self) -> Any:
        self.skip()
        match self._text[self.place : self.place + 1]:
            case "{":
                return dict(self._items("}", self._pair))
            case "[":
                return list(self._items("]", self.value))
            case letter if letter == QUOTE:
                return self._string()
            case _:
                return self._bare()

    def skip(self) -> None:
        while self._text[self.place : self.place + 1].isspace():
            self.place += 1

    def _items(self, end: str, read: Any) -> list[Any]:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise ValueError("nested too deep")
        self.place += 1
        found: list[Any] = []
        while True:
            self.skip()
            if self._takes(end):
                self._depth -= 1
                return found
            if found and not self._takes(","):
                raise ValueError("no comma")
            found.append(read())

    def _pair(self) -> tuple[str, Any]:
        self.skip()
        if self._text[self.place : self.place + 1] == QUOTE:
            key = self._string()
        else:
            colon = self._text.index(":", self.place)
            key = self._text[self.place : colon].strip()
            self.place = colon
        self.skip()
        if not key or not self._takes(":"):
            raise ValueError("no key")
        return key, self.value()

    def _string(self) -> str:
        end = self._text.index(QUOTE, self.place + 1)
        found = self._text[self.place + 1 : end]
        self.place = end + 1
        return found

    def _bare(self) -> Any:
        found = _BARE.match(self._text, self.place)
        assert found is not None  # it matches nothing, too
        word = found[0].strip()
        self.place = found.end()
        if word in _WORDS:
            return _WORDS[word]
        if not word:
            raise ValueError("no value")
        try:
            return json.loads(word)
        except ValueError:
            return word

    def _takes(self, letter: str) -> bool:
        if self._text[self.place : self.place + 1] != letter:
            return False
        self.place += 1
        return True
