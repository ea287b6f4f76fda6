"""Paths and URLs as people type, quote and drop them. No torch."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote_to_bytes

from rqchat.errors import UsageError

__all__ = ["as_path", "is_url", "one_path", "split_paths", "split_question", "split_references"]

_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|\\.|[^\s\\])+""")
_OTHER_URL = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def split_paths(text: str) -> tuple[Path, ...]:
    """The paths in `text`; all of it is one path where such a file exists, blanks and all.

    Raises:
        UsageError: a quote is not closed.
    """
    return tuple(as_path(word) for word in split_references(text))


def split_references(text: str) -> tuple[str, ...]:
    """The words in `text` without their quotes, URLs among them; an existing path is one word.

    Raises:
        UsageError: a quote is not closed.
    """
    if os.path.exists(as_path(text.strip())):
        return (text.strip(),)
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise UsageError(f"a quote is not closed in {text.strip()!r}") from None


def split_question(text: str) -> tuple[tuple[str, ...], str]:
    """The references at the beginning of `text`, and the question after them, which may be empty.

    Files that exist and URLs are references. Where the first word is neither, all words are taken
    for references, as somebody has mistyped one.

    Raises:
        UsageError: a quote is not closed.
    """
    end = 0
    for word in _WORD.finditer(text):
        reference = _unquoted(word.group())
        if not (is_url(reference) or os.path.exists(as_path(reference))):
            break
        end = word.end()
    question = text[end:].strip()
    if not end or os.path.exists(as_path(text.strip())):
        return split_references(text), ""
    return split_references(text[:end]), question


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError:
        return word


def one_path(text: str) -> Path:
    """The path that one argument names: as it is, or unquoted where only that exists.

    Terminals quote or escape the names of files that are dropped on them, and quotes around such
    a name keep the shell from removing its own.

    Raises:
        UsageError: it names nothing, as a variable that is not set does, or a URL of another kind.
    """
    path = as_path(text)
    if path == Path() and text.strip() != ".":
        raise UsageError(f"{text!r} names no file; is a variable not set?")
    if _OTHER_URL.match(text) and not os.path.exists(path):
        raise UsageError(f"{text} cannot be fetched; only http:// and https:// can, and files")
    if not os.path.exists(path):
        with contextlib.suppress(UsageError):
            unquoted = split_paths(text)
            if len(unquoted) == 1 and os.path.exists(unquoted[0]):
                return unquoted[0]
    return path


def is_url(text: str) -> bool:
    """Whether `text` is the address of something on the web."""
    return text.lower().startswith(("http://", "https://"))


def as_path(text: str) -> Path:
    """One path from one unquoted word: `file://` URLs are decoded and `~` is the home folder."""
    try:
        return Path(_local_part(text) if text.startswith("file://") else text).expanduser()
    except (RuntimeError, ValueError):  # the home folder of a user who does not exist
        return Path(text)


def _local_part(url: str) -> str:
    """The path of a `file://` URL, by its bytes: names of files may be in any encoding."""
    place = re.split("[?#]", url.removeprefix("file://"), maxsplit=1)[0]
    _host, slash, path = place.partition("/")
    return os.fsdecode(unquote_to_bytes(os.fsencode(slash + path)))
