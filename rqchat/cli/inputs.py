"""What the user hands over besides the question: files, pictures, standard input."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rqchat.cli.paths import as_path
from rqchat.errors import InputError, UsageError
from rqchat.ui.console import Screen, is_terminal

if TYPE_CHECKING:
    from rqchat.engine.conversation import UserTurn
    from rqchat.engine.documents import Document
    from rqchat.engine.images import Picture

__all__ = ["STDIN", "gather_turn", "read_stdin"]

STDIN = "-"
_STDIN_NAME = "standard input"
_WAIT_NOTE_S = 1.0


def gather_turn(
    prompt: str | None, images: Sequence[str], files: Sequence[str], screen: Screen
) -> UserTurn:
    """The one user turn of `rqchat ask`.

    A piped standard input is the first document, or the question where `prompt` is None, unless
    `-` among `images` or `files` says what it is.

    Raises:
        UsageError: there is no question, or `-` stands twice.
        InputError: a file, a picture or standard input cannot be used.
    """
    from rqchat.engine.conversation import UserTurn
    from rqchat.engine.documents import decode_document

    named = [*images, *files].count(STDIN)
    if named > 1:
        raise UsageError("'-' stands for standard input, which can be read only once")
    _check_prompt(prompt, can_be_piped=not named)
    documents = [_document(name, screen) for name in files]
    pictures = [_picture(name, screen) for name in images]
    if not named and not is_terminal("stdin"):
        data = read_stdin(screen)
        if prompt is None:
            prompt = decode_document(data, _STDIN_NAME).text if data.strip() else None
        elif data.strip():
            documents.insert(0, decode_document(data, _STDIN_NAME))
        elif _may_carry_data():
            screen.note("standard input is empty: no document was read", style="warning")
    _check_prompt(prompt, can_be_piped=False)
    assert prompt is not None
    return UserTurn(prompt.strip(), pictures=tuple(pictures), documents=tuple(documents))


def read_stdin(screen: Screen) -> bytes:
    """All of standard input; says on a terminal that it waits when nothing comes for a while.

    Raises:
        InputError: standard input is closed.
    """
    if sys.stdin is None:
        raise InputError("standard input is closed; give a file name instead of '-'")
    waiting = threading.Timer(
        _WAIT_NOTE_S, screen.status, ["reading standard input (Ctrl-D ends it)"]
    )
    waiting.daemon = True
    waiting.start()
    try:
        return sys.stdin.buffer.read()
    finally:
        waiting.cancel()
        screen.clear_status()


def _check_prompt(prompt: str | None, *, can_be_piped: bool) -> None:
    missing = prompt is None and not (can_be_piped and not is_terminal("stdin"))
    if missing or (prompt is not None and not prompt.strip()):
        raise UsageError('there is no question; write it last: rqchat ask "Who is the narrator?"')
    if prompt is not None and any("\ud800" <= char <= "\udfff" for char in prompt):
        raise UsageError("the question is not valid UTF-8; check the terminal's encoding")


def _document(name: str, screen: Screen) -> Document:
    from rqchat.engine.documents import decode_document, read_document

    if name == STDIN:
        return decode_document(read_stdin(screen), _STDIN_NAME)
    return read_document(as_path(name))


def _picture(name: str, screen: Screen) -> Picture:
    from rqchat.engine.images import decode_picture, read_picture

    if name == STDIN:
        return decode_picture(read_stdin(screen), _STDIN_NAME)
    return read_picture(as_path(name))


def _may_carry_data() -> bool:
    """Whether standard input is a pipe, a socket or a file, and not /dev/null or the like."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return True
    return not stat.S_ISCHR(mode)
