"""What may come out at the terminal's end: a judge of all that was written there."""

from __future__ import annotations

import re

__all__ = ["FOREIGN_STYLE", "MISCHIEF", "foreign_sequences"]

FOREIGN_STYLE = "\x1b[38;5;201m"  # a colour that is none of ours
MISCHIEF = (
    *("\x1bc", "\x1b]0;owned\x07", "\x1b[2J", "\x1bPq\x1b\\", "\x9b2J", "\x08\x7f", FOREIGN_STYLE),
    *("\u202edrawkcab", "\u2066isolated", "\r\x0b\x0c", "\ud800\udc1b"),
    *("<ab:%1bc>", "<ab:%C2%9b2J>", "<http://x.y/%1b]0;owned%07>", "[a](ab:%1b[2J)"),
    *("[b](<ab:%0d> '&#27;c')", "![&#x9b;2J](ab:%1bc)", "[c]: ab:%1bc '&#x202e;'\n[c]"),
    *("&#x202e;drawkcab", "&#8294;", "&#27;[2J", "&#x9b;2J", "&#xd800;", "`\x1bc`", "|\x1bc|\n|-|"),
    *("\n```\x1bc\n\x1b]0;owned\x07\n```\n", "\n```python\n'\x9b2J\u202e\n```\n", "# &#x202e;\n"),
)
_STYLE = re.compile(r"\x1b\[[\d;]*m")
_OVER = re.compile(r"\r(?=[^\n]*\x1b\[K)|\x1b\[K")  # a status line over the one before it
_CONTROL = re.compile(
    "\x1b.{0,8}|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def foreign_sequences(written: str) -> list[str]:
    """What a terminal would act on in `written`, beyond our colours and our status line."""
    strange = [FOREIGN_STYLE] if FOREIGN_STYLE in written else []
    return strange + _CONTROL.findall(_OVER.sub("", _STYLE.sub("", written)))
