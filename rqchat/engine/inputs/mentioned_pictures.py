"""Pictures that a sentence names, as in `what is in ~/cat.png?`. No torch.

A model that gets the words alone would answer about a picture that it has never seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rqchat.engine.inputs.pictures import PICTURE_SUFFIXES
from rqchat.engine.inputs.reference_paths import as_path, is_url
from rqchat.errors import InputError

__all__ = ["mentioned_pictures"]

_SUFFIX = re.compile(
    rf"(?:{'|'.join(map(re.escape, PICTURE_SUFFIXES))})(?![\w/\\]|\.\w)", re.IGNORECASE
)
_MOST_WORDS = 12  # that a path with blanks may have
_BEFORE_A_WORD = re.compile(r"(?<![^\s\"'`(\[<,;=])\S")
_OPENING = "\"'`(["


def mentioned_pictures(text: str) -> tuple[Path, ...]:
    """The pictures that exist among the paths in `text`, each once, in order.

    Blanks in a path may be there as they are, escaped, or in quotes. Words that end like a picture
    and name no file, such as `a.png` in "how do I make a.png smaller?", stay words.

    Raises:
        InputError: a path with a folder in it does not exist.
    """
    found: list[Path] = []
    for words in _candidates(text):
        # The longest: where `my cat.png` is a file, `cat.png` was not meant
        path = next((path for path in map(_as_written, reversed(words)) if _is_file(path)), None)
        if path is not None:
            if path not in found:
                found.append(path)
        elif _is_clearly_a_path(words[0]):
            raise InputError(
                f"there is no picture {words[0]}; mend the path, or leave out its folder to send"
                " it as words"
            )
    return tuple(found)


def _candidates(text: str) -> Iterator[list[str]]:
    """For each end of a picture's name what may be the name: the last word, the last two, ..."""
    start = 0
    for suffix in _SUFFIX.finditer(text):
        end = suffix.end()
        starts = [match.start() for match in _BEFORE_A_WORD.finditer(text, start, end)]
        words = [text[place:end] for place in reversed(starts[-_MOST_WORDS:])]
        if words and not is_url(words[0]):
            yield words
        start = end


def _as_written(words: str) -> Path:
    """The path without the quote or the @ before it and the backslashes before its blanks."""
    path = words.lstrip(_OPENING)
    without = (path, re.sub(r"\\(.)", r"\1", path), path.removeprefix("@"))
    return next(filter(_is_file, map(as_path, without)), as_path(path))


def _is_clearly_a_path(word: str) -> bool:
    return word.lstrip(_OPENING + "@").startswith(("/", "~", "./", "../", "file://"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long or holds a NUL
        return False
