"""The history file: lines that were typed in this and earlier runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

__all__ = ["open_history"]


def open_history(path: Path | None, expand: Callable[[str], str]) -> History:
    """The history file, readable by its owner alone; in memory where that cannot be had.

    Args:
        path: the file; None keeps lines for this run only.
        expand: makes of a line what the file keeps of it, for later runs.
    """
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.read_bytes()
    except OSError:
        return InMemoryHistory()
    return _KeptHistory(str(path), expand)


class _KeptHistory(FileHistory):
    """A history file whose disk may fill up while we run: the line is kept in memory then."""

    def __init__(self, filename: str, expand: Callable[[str], str]) -> None:
        super().__init__(filename)
        self._expand = expand

    def store_string(self, string: str) -> None:
        try:
            # Bytes that are no text, as a terminal may send, would end the chat here
            kept = self._expand(string).encode("utf-8", "replace").decode()
            super().store_string(kept)
        except OSError:
            return
