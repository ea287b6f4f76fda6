"""Lets the user change a text in the editor of $VISUAL or $EDITOR."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from rqchat.errors import RqchatError, UsageError

__all__ = ["edit_text", "own_editor"]


def own_editor() -> list[str] | None:
    """The words of the command in $VISUAL or $EDITOR; None where neither has any.

    Raises:
        UsageError: a quote in it is not closed.
    """
    for name in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(os.environ.get(name, ""))
        except ValueError as error:
            given = os.environ[name]
            raise UsageError(f"{name} is {given!r}, which is no command: {error}") from None
        if words:
            return words
    return None


def edit_text(text: str) -> str | None:
    """`text` as the user changed it; None where the editor reported a failure.

    Raises:
        RqchatError: there is no such editor.
    """
    command = own_editor() or ["vi"]
    with tempfile.TemporaryDirectory(prefix="rqchat-") as folder:
        path = Path(folder) / "question.md"  # editors choose colours by the ending
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            done = subprocess.run([*command, str(path)])
        except OSError as error:
            raise RqchatError(
                f"the editor {command[0]!r} cannot be run ({error.strerror}); set $EDITOR"
            ) from None
        if done.returncode:
            return None
        return path.read_text(encoding="utf-8", errors="replace").strip()
