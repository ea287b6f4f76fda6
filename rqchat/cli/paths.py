"""File names as people type, paste and drop them: quotes, `\\ `, `~` and `file://`."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rqchat.errors import UsageError

__all__ = ["as_path", "split_paths"]


def split_paths(text: str) -> tuple[Path, ...]:
    """The paths in `text`; all of it is one path where such a file exists, blanks and all.

    Raises:
        UsageError: a quote is not closed.
    """
    whole = as_path(text.strip())
    if whole.exists():
        return (whole,)
    try:
        words = shlex.split(text)
    except ValueError:
        raise UsageError(f"a quote is not closed in {text.strip()!r}") from None
    return tuple(as_path(word) for word in words)


def as_path(text: str) -> Path:
    """One path from one unquoted word: `file://` URLs are decoded and `~` is the home folder."""
    parts = urlsplit(text) if text.startswith("file://") else None
    path = Path(unquote(parts.path) if parts else text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
