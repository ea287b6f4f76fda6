"""Pictures that a sentence names, as in `what is in ~/cat.png?`. No torch.

A model that gets the words alone would answer about a picture that it has never seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rqchat.engine.inputs.pictures import PICTURE_SUFFIXES
from rqchat.engine.inputs.reference_paths import as_path, is_url
from rqchat.errors import InputError

__all__ = ["mentioned_pictures"]

_FILMS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg")
_SUFFIX = re.compile(
    rf"(?:{'|'.join(map(re.escape, (*PICTURE_SUFFIXES, *_FILMS)))})(?![\w/\\]|\.\w)", re.IGNORECASE
)
_MOST_WORDS = 12  # that a path with blanks may have
_FOLDER = re.compile(r"(?<!\S)(?:~|\.\.?)/\w(?:[\w./-]*\w)?/?")
_MOST_OF_A_SENTENCE = 200  # what is longer may be a log or code, whose folders are not meant
_BEFORE_A_WORD = re.compile(r"(?<![^\s\"'`(\[<,;=])\S")
_OPENING = "\"'`(["


def mentioned_pictures(text: str) -> tuple[Path, ...]:
    """The pictures that exist among the paths in `text`, each once, in order.

    Blanks in a path may be there as they are, escaped, or in quotes. Words that end like a picture
    and name no file, such as `a.png` in "how do I make a.png smaller?", stay words.

    Raises:
        InputError: a path with a folder in it does not exist, or one is a folder or a video.
    """
    found: list[Path] = []
    for words in _candidates(text):
        # The longest: where `my cat.png` is a file, `cat.png` was not meant
        path = next((path for path in map(_as_written, reversed(words)) if _is_file(path)), None)
        if path is not None:
            if path.suffix.lower() in _FILMS:
                raise InputError(
                    f"{path} is a video, which rqchat does not read; attach a still picture of it"
                )
            if path not in found:
                found.append(path)
        elif _is_clearly_a_path(words[0]):
            _refuse_folder(words[0])
            raise InputError(
                f"there is no picture {words[0]}; mend the path, or leave out its folder to send"
                " it as words"
            )
    if len(text) <= _MOST_OF_A_SENTENCE:
        for word in _FOLDER.findall(text):
            _refuse_folder(word)
    return tuple(found)


def _refuse_folder(word: str) -> None:
    if _is(Path.is_dir, _as_written(word)):
        raise InputError(
            f"{word} is a folder; attach what is in it with -f (/file in a chat), or leave out"
            " what stands before its name to send it as words"
        )


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
    return _is(Path.is_file, path)


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # a name that is too long or holds a NUL
        return False
