"""The texts and pictures of a folder, such as a code base. No torch."""

from __future__ import annotations

import fnmatch
import glob
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rqchat.engine.inputs.documents import MAX_DOCUMENT_BYTES, Document
from rqchat.engine.inputs.pdf import looks_like_pdf
from rqchat.engine.inputs.pictures import MAX_PICTURE_BYTES, Picture, looks_like_picture
from rqchat.errors import InputError, printable

__all__ = [
    "MAX_FOLDER_BYTES",
    "MAX_FOLDER_ENTRIES",
    "MAX_FOLDER_FILES",
    "MAX_FOLDER_PICTURES",
    "MAX_FOLDER_PIXELS",
    "Decode",
    "FolderFiles",
    "matching_files",
    "read_files",
    "read_folder",
]

MAX_FOLDER_ENTRIES = 100_000  # looked at before it is known how many of them are text
MAX_FOLDER_FILES = 5_000
MAX_FOLDER_BYTES = 64_000_000  # of text
MAX_FOLDER_PICTURES = 100
MAX_FOLDER_PIXELS = 300_000_000  # as they are kept, which takes 900 MB
Decode = Callable[[bytes, str], tuple[Document | Picture, ...]]
_GIT_LIMIT_S = 30.0
_LOOKED_AT_BYTES = 8_192
_NEVER_SOURCE = frozenset(("__pycache__", "node_modules"))
# What the kernel makes up while it is read, some of it without an end
_NO_FILES = frozenset(("/proc", "/sys", "/dev"))


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """What was found in a folder.

    Attributes:
        items: of each text, PDF file and picture, in the order of their names.
        names: of the files that they come from.
        left_out: names of the other files: binary, empty, damaged, in another encoding, or not to
            be read.
    """

    items: tuple[Document | Picture, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...]


def read_folder(folder: Path, decode: Decode) -> FolderFiles:
    """Every text, PDF file and picture below `folder`, as `decode` makes them of bytes and a name.

    In a git work tree those that git tracks or would track, so that `.gitignore` counts;
    elsewhere all but hidden ones. Symbolic links are not followed.

    Raises:
        InputError: there is nothing of that, or more than the limits, for which nothing is ever
            left out.
    """
    paths = _known_to_git(folder)
    found = read_files(
        _walk(_Listing(str(folder)), folder) if paths is None else paths,
        str(folder),
        decode,
    )
    if not found.items:
        raise InputError(f"{folder} holds no texts and no pictures; name another folder")
    return found


def read_files(paths: Iterable[Path], whole: str, decode: Decode) -> FolderFiles:
    """As `read_folder`, of `paths`; errors call all of them `whole`.

    Raises:
        InputError: there are more than the limits.
    """
    items: list[Document | Picture] = []
    names: list[str] = []
    left_out: list[str] = []
    room = _Room(whole)
    for path in sorted(paths):
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        name = str(path)
        data = _read(path, room.text_bytes)
        is_text = data is not None and not _is_packed(data, name)
        room.take(text_bytes=len(data) if data and is_text else 0)
        try:
            found = decode(data, name) if data is not None else ()
        except InputError:
            found = ()
        if not found:
            left_out.append(name)
            continue
        room.take(files=1)
        for item in found:
            if isinstance(item, Picture):
                room.take(pictures=1, pixels=item.image.width * item.image.height)
            else:
                room.take(text_bytes=0 if is_text else len(item.text))
        items += found
        names.append(printable(name))
    return FolderFiles(tuple(items), tuple(names), tuple(left_out))


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


class _Room:
    """What a folder may still hold; errors call it `whole`."""

    def __init__(self, whole: str) -> None:
        self._whole = whole
        self._files, self.text_bytes = MAX_FOLDER_FILES, MAX_FOLDER_BYTES
        self._pictures, self._pixels = MAX_FOLDER_PICTURES, MAX_FOLDER_PIXELS

    def take(
        self, *, files: int = 0, text_bytes: int = 0, pictures: int = 0, pixels: int = 0
    ) -> None:
        """Raises InputError where there is no room for that."""
        self._files -= files
        self.text_bytes -= text_bytes
        self._pictures -= pictures
        self._pixels -= pixels
        if min(self._files, self.text_bytes, self._pictures, self._pixels) < 0:
            raise InputError(
                f"{self._whole} holds more than {MAX_FOLDER_FILES:,} files,"
                f" {MAX_FOLDER_BYTES / 1e6:.0f} MB of text, {MAX_FOLDER_PICTURES} pictures or"
                f" {MAX_FOLDER_PIXELS / 1e6:.0f} megapixels; name a part of it, such as"
                f" '{self._whole}/*.md'"
            )


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


def _read(path: Path, most_text_bytes: int) -> bytes | None:
    """What is in a file, one byte more than its limit at most; None where it is of no use.

    A file that is of no use is not read whole, and one that only waits is not waited for.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            start = file.read(_LOOKED_AT_BYTES)
            most_bytes = most_text_bytes
            if looks_like_picture(start, str(path)):
                most_bytes = MAX_PICTURE_BYTES
            elif looks_like_pdf(start):
                most_bytes = MAX_DOCUMENT_BYTES
            # Texts in UTF-16 and UTF-32 are full of NUL bytes, and begin with these marks
            elif b"\0" in start and not start.startswith(
                (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
            ):
                return None
            return start + file.read(max(0, most_bytes + 1 - len(start)))
    except (OSError, TypeError):  # files that the kernel makes up may have nothing yet: None
        return None


def _is_packed(data: bytes, name: str) -> bool:
    """Whether the bytes of a file say nothing of what it holds; who decodes it bounds that."""
    return looks_like_picture(data, name) or looks_like_pdf(data)


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
