"""Keeps the keys that are typed while no line editor reads them."""

from __future__ import annotations

import os
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rqchat.ui.console import is_terminal

__all__ = ["keys_kept"]


@contextmanager
def keys_kept() -> Iterator[str]:
    """Within, keys typed while nobody reads them wait unseen for the line editor.

    Without it the terminal itself would show them, `^C` too, in the middle of an answer, turn
    Enter into Ctrl-J, swallow Ctrl-D, and drop all of it at Ctrl-C, which still interrupts.

    The terminal is standard error's where standard input is a document that is piped in.

    Yields:
        What was typed before, with the Enter that the terminal had turned into Ctrl-J.
    """
    try:
        terminal = (sys.stdin if is_terminal("stdin") else sys.stderr).fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, AttributeError, termios.error):
        yield ""
        return
    kept = list(before)
    kept[0] &= ~termios.ICRNL
    kept[3] = kept[3] & ~(termios.ECHO | termios.ICANON) | termios.NOFLSH
    # Not TCSAFLUSH, which drops what is typed and not read yet.
    termios.tcsetattr(terminal, termios.TCSADRAIN, kept)
    try:
        yield _typed(terminal).replace("\n", "\r")
    finally:
        with suppress(termios.error):  # its window may be closed
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _typed(terminal: int) -> str:
    """What waits to be read, without waiting for more."""
    typed = b""
    with suppress(OSError):  # standard error can be open for writing alone
        while select.select([terminal], [], [], 0)[0] and (piece := os.read(terminal, 4096)):
            typed += piece
    return typed.decode(errors="ignore")
