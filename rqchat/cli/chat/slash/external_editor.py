"""Lets the user change a text in the editor of $VISUAL or $EDITOR."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from rqchat.errors import RqchatError

__all__ = ["edit_text", "own_editor"]


def own_editor() -> str | None:
    """The command in $VISUAL or $EDITOR."""
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or None


def edit_text(text: str) -> str | None:
    """`text` as the user changed it; None where the editor reported a failure.

    Raises:
        RqchatError: there is no such editor.
    """
    command = shlex.split(own_editor() or "vi")
    with tempfile.TemporaryDirectory(prefix="rqchat-") as folder:
        path = Path(folder) / "question.md"  # editors choose colours by the ending
        path.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run([*command, str(path)])
        except OSError as error:
            raise RqchatError(
                f"the editor {command[0]!r} cannot be run ({error.strerror}); set $EDITOR"
            ) from None
        return path.read_text(encoding="utf-8").strip() if done.returncode == 0 else None
