"""Answers that quote what strangers wrote, drawn as they stream: nothing of it may act."""

from __future__ import annotations

import io
import random
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from rqchat.engine.events import Notice, TextDelta, ThoughtDelta
from rqchat.ui.console import Screen
from rqchat.ui.stream import AnswerView
from tests.screen_oracle import MISCHIEF, foreign_sequences

__all__ = ["try_one"]

_MARKS = (
    *("\n", "\n\n", " ", "# ", "- ", "1. ", "> ", "    ", "\t", "**", "*", "_", "~~", "`", "``"),
    *(
        "```",
        "\n```python\n",
        "\n```html\n",
        "\n~~~\n",
        "|",
        "\n|-|-|\n",
        "[",
        "](",
        ")",
        "![",
        "<",
    ),
    *("<ab:", ">", "&#x", "&#", ";", "%1b", "%9b", "%C2%9b", "%00", "&amp;", "\\", "http://x.y/"),
    *("word", "日本", "é", "\U0001f600", "\u200f", "\ufeff", "\x85", "\u2028", '"""', "/*", "'"),
)


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def try_one(rng: random.Random, folder: Path) -> None:
    """One answer of signs and mischief, in pieces of any size."""
    pieces = [
        rng.choice(MISCHIEF) if rng.random() < 0.2 else _changed(rng, rng.choice(_MARKS))
        for _ in range(rng.randint(1, 120))
    ]
    text, out, err = "".join(pieces), _Terminal(), _Terminal()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict("os.environ", TERM="xterm", COLUMNS="80"))
        stack.enter_context(mock.patch.object(sys, "stdout", out))
        stack.enter_context(mock.patch.object(sys, "stderr", err))
        screen = Screen(width=rng.choice((20, 80)))
        view = AnswerView(screen, fold=rng.random() < 0.5, markdown=rng.random() < 0.8)
        view.show(Notice(text))
        view.show(ThoughtDelta(text))
        while text:
            length = rng.choice((1, 4, 4, 50))
            view.show(TextDelta(text[:length]))
            text = text[length:]
        view.close()
    found = foreign_sequences(out.getvalue() + err.getvalue())
    assert not found, (pieces, found)


def _changed(rng: random.Random, mark: str) -> str:
    """Now and then repeated, or with any character after it."""
    if rng.random() < 0.1:
        return mark * rng.choice((2, 7, 60))
    return mark + chr(rng.randrange(0x3000)) if rng.random() < 0.1 else mark
