"""The text files of a folder, such as a code base. No torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rqchat.engine.inputs.documents import Document, read_document
from rqchat.errors import InputError

__all__ = ["MAX_FOLDER_BYTES", "MAX_FOLDER_FILES", "FolderText", "read_files", "read_folder"]

MAX_FOLDER_FILES = 5_000
MAX_FOLDER_BYTES = 64_000_000
_GIT_LIMIT_S = 30.0
_LOOKED_AT_BYTES = 8_192
_NEVER_SOURCE = frozenset(("__pycache__", "node_modules"))


@dataclass(frozen=True, slots=True)
class FolderText:
    """What was found in a folder.

    Attributes:
        documents: one for each text file, in the order of their names.
        left_out: names of the files that hold no text: binary, empty, in another encoding, or not
            to be read.
    """

    documents: tuple[Document, ...]
    left_out: tuple[str, ...]


def read_folder(folder: Path, *, encoding: str | None = None) -> FolderText:
    """Every text file below `folder`.

    In a git work tree those that git tracks or would track, so that `.gitignore` counts;
    elsewhere all but hidden ones. Symbolic links are not followed.

    Raises:
        InputError: there is no text, or more than the limits; nothing is ever left out for them.
    """
    paths = _known_to_git(folder)
    found = read_files(_walk(folder) if paths is None else paths, str(folder), encoding=encoding)
    if not found.documents:
        raise InputError(f"{folder} holds no text files; name another folder")
    return found


def read_files(paths: Iterable[Path], whole: str, *, encoding: str | None = None) -> FolderText:
    """Every text file among `paths`; errors call all of them `whole`.

    Raises:
        InputError: there are more than the limits, or one cannot be read.
    """
    documents: list[Document] = []
    left_out: list[str] = []
    size_bytes = 0
    for path in sorted(paths):
        if path.is_symlink() or not path.is_file():
            continue
        if _is_binary(path):
            left_out.append(str(path))
            continue
        size_bytes += path.stat().st_size
        if len(documents) == MAX_FOLDER_FILES or size_bytes > MAX_FOLDER_BYTES:
            raise InputError(
                f"{whole} holds more than {MAX_FOLDER_FILES:,} text files or"
                f" {MAX_FOLDER_BYTES / 1e6:.0f} MB; name a part of it, such as '{whole}/*.md'"
            )
        try:
            documents.append(read_document(path, encoding=encoding))
        except InputError:
            left_out.append(str(path))
    return FolderText(tuple(documents), tuple(left_out))


def _is_binary(path: Path) -> bool:
    """Whether a file need not be read whole to know that it is no text."""
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT_BYTES)
    except OSError:
        return True
    # Texts in UTF-16 and UTF-32 are full of NUL bytes, and begin with these marks.
    return b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"))


def _known_to_git(folder: Path) -> list[Path] | None:
    """Files that git tracks or would track; None where git does not know the folder."""
    # A repository's own settings may name a program for this, which git would run.
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), "ls-files", "-z"]
    command += ["--cached", "--others", "--exclude-standard", "--deduplicate"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return [folder / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walk(folder: Path) -> Iterator[Path]:
    for base, names, files in os.walk(folder):
        names[:] = [n for n in names if not n.startswith(".") and n not in _NEVER_SOURCE]
        yield from (Path(base, name) for name in files if not name.startswith("."))
