"""Tells an answer that has fallen into a loop from one that repeats itself for a reason. No torch.

Two rules, both exact, because whoever reads tables, code or poems must not be interrupted:

- The latest tokens are what came so many tokens before, for long enough: 128 tokens, 160 where the
  loop is of eight tokens or fewer (rules and rows of zeros), and half as much again as the loop
  where it is long.
- The latest items of a list, ten of them and 96 tokens, are the same but for their numbers.

So a loop of up to 72 tokens is found within 200 tokens of its beginning. Figures:
`python -m tests.loops`.
"""

from __future__ import annotations

import re
from collections import deque

__all__ = ["LoopGuard"]

_LONGEST_LOOP = 256
_REPEATED_TOKENS, _SHORT_LOOP, _SHORT_REPEATED_TOKENS = 128, 8, 160
_ITEMS, _ITEM_TOKENS, _ITEMS_OF_A_LOOP, _KEPT_ITEMS = 10, 96, 4, 64
_MARKER = re.compile(r"\s*(?:\d+[.):]|[-*+\u2022])\s+")
_LONGEST_LINE = 1_000  # characters of what may be an item


class LoopGuard:
    """Watches one answer, token by token."""

    def __init__(self) -> None:
        self._place = 0
        self._places: dict[int, deque[int]] = {}  # where each token came lately
        # Up to which place, and for how many tokens, all came so many places before as well
        self._runs: dict[int, tuple[int, int]] = {}
        self._line, self._line_tokens = "", 0
        self._items: list[tuple[str, int]] = []  # without their markers, and their tokens

    def is_loop(self, token: int, text: str) -> bool:
        """Whether the answer loops once `token`, which adds `text`, has come."""
        return self._repeats(token) or self._lists(text)

    def _repeats(self, token: int) -> bool:
        place, found = self._place, False
        self._place += 1
        places = self._places.setdefault(token, deque())
        while places and place - places[0] > _LONGEST_LOOP:
            places.popleft()
        for before in places:
            period = place - before
            last, count = self._runs.get(period, (-1, 0))
            count = count + 1 if last == place - 1 else 1
            self._runs[period] = place, count
            found = found or count >= _needed(period)
        places.append(place)
        return found

    def _lists(self, text: str) -> bool:
        self._line_tokens += 1
        *lines, rest = (self._line + text).split("\n")
        self._line = rest[:_LONGEST_LINE]
        for line in lines:
            if not line.strip():
                continue
            marker = _MARKER.match(line)
            said = line[marker.end() :].strip() if marker else ""
            if not any(map(str.isalpha, said)):
                self._items.clear()
            else:
                self._items.append((said, self._line_tokens))
                del self._items[:-_KEPT_ITEMS]
            self._line_tokens = 0
        return bool(lines) and self._items_loop()

    def _items_loop(self) -> bool:
        items = self._items
        for period in range(1, _ITEMS_OF_A_LOOP + 1):
            first = len(items)
            while first > period and items[first - 1][0] == items[first - 1 - period][0]:
                first -= 1
            tokens = sum(count for _, count in items[first:])
            if len(items) - first >= _ITEMS - 1 and tokens >= _ITEM_TOKENS:
                return True
        return False


def _needed(period: int) -> int:
    """Repeated tokens that make a loop of one of `period` tokens."""
    if period <= _SHORT_LOOP:
        return _SHORT_REPEATED_TOKENS
    return max(_REPEATED_TOKENS, 3 * period // 2)
