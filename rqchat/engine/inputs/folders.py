"""The text files of a folder, such as a code base. No torch."""

from __future__ import annotations

import fnmatch
import glob
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rqchat.engine.inputs.documents import Document, decode_document
from rqchat.errors import InputError

__all__ = [
    "MAX_FOLDER_BYTES",
    "MAX_FOLDER_ENTRIES",
    "MAX_FOLDER_FILES",
    "FolderText",
    "matching_files",
    "read_files",
    "read_folder",
]

MAX_FOLDER_ENTRIES = 100_000  # looked at before it is known how many of them are text
MAX_FOLDER_FILES = 5_000
MAX_FOLDER_BYTES = 64_000_000
_GIT_LIMIT_S = 30.0
_LOOKED_AT_BYTES = 8_192
_NEVER_SOURCE = frozenset(("__pycache__", "node_modules"))
# What the kernel makes up while it is read, some of it without an end
_NO_FILES = frozenset(("/proc", "/sys", "/dev"))


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
    found = read_files(
        _walk(_Listing(str(folder)), folder) if paths is None else paths,
        str(folder),
        encoding=encoding,
    )
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
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        data = _read_text(path, MAX_FOLDER_BYTES - size_bytes)
        if data is None:
            left_out.append(str(path))
            continue
        size_bytes += len(data)
        if len(documents) == MAX_FOLDER_FILES or size_bytes > MAX_FOLDER_BYTES:
            raise InputError(
                f"{whole} holds more than {MAX_FOLDER_FILES:,} text files or"
                f" {MAX_FOLDER_BYTES / 1e6:.0f} MB; name a part of it, such as '{whole}/*.md'"
            )
        try:
            documents.append(decode_document(data, str(path), encoding=encoding))
        except InputError:
            left_out.append(str(path))
    return FolderText(tuple(documents), tuple(left_out))


def matching_files(pattern: str) -> list[Path]:
    """Files that a pattern of the shell names, `**` among its parts for folders of any depth.

    Hidden names are matched where the pattern's part begins with a dot. Unlike Python's `glob`,
    symbolic links are not followed below `**`, where they may form circles, and the number of
    names that are looked at is bounded.

    Raises:
        InputError: there are more names than the limit.
    """
    parts = Path(pattern).parts
    listing, found = _Listing(pattern), set[Path]()
    waiting, seen = [(Path(), 0)], set[tuple[Path, int]]()
    while waiting:
        state = path, index = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        if index == len(parts):
            found.add(path)
        elif parts[index] == "**":
            below = [entry for entry in listing.of(path) if not entry.name.startswith(".")]
            waiting += [(path / e.name, index) for e in below if e.is_dir(follow_symlinks=False)]
            if index + 1 == len(parts):
                waiting += [(path / e.name, index + 1) for e in below]
            waiting.append((path, index + 1))
        elif glob.has_magic(part := parts[index]):
            names = fnmatch.filter((entry.name for entry in listing.of(path)), part)
            shown = (n for n in names if part.startswith(".") or not n.startswith("."))
            waiting += [(path / name, index + 1) for name in shown]
        elif os.path.lexists(path / part):
            waiting.append((path / part, index + 1))
    return [path for path in found if os.path.isfile(path)]


class _Listing:
    """What is in folders, for one walk; errors call where it began `whole`."""

    def __init__(self, whole: str) -> None:
        self._whole, self._count = whole, 0

    def of(self, folder: Path) -> list[os.DirEntry[str]]:
        """The entries of `folder`; none where it cannot be read.

        Raises:
            InputError: with these there are more than the limit.
        """
        found: list[os.DirEntry[str]] = []
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                self._count += 1
                if self._count > MAX_FOLDER_ENTRIES:
                    raise InputError(
                        f"{self._whole} holds more than {MAX_FOLDER_ENTRIES:,} files and folders;"
                        " name a part of it"
                    )
                found.append(entry)
        return found


def _walk(listing: _Listing, folder: Path) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        base = waiting.pop()
        for entry in listing.of(base):
            if entry.name.startswith("."):
                continue
            path = base / entry.name
            if not entry.is_dir(follow_symlinks=False):
                yield path
            elif entry.name not in _NEVER_SOURCE and str(path) not in _NO_FILES:
                waiting.append(path)


def _read_text(path: Path, most_bytes: int) -> bytes | None:
    """What is in a file, one byte more than `most_bytes` at most; None where it is no text.

    A file that is no text is not read whole, and one that only waits is not waited for.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            start = file.read(_LOOKED_AT_BYTES)
            # Texts in UTF-16 and UTF-32 are full of NUL bytes, and begin with these marks
            if b"\0" in start and not start.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
                return None
            return start + file.read(max(0, most_bytes + 1 - len(start)))
    except (OSError, TypeError):  # files that the kernel makes up may have nothing yet: None
        return None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


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
