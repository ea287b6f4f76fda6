"""What a person names with `--file` or `--image`: a path, a folder, a pattern or a URL."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rqchat.errors import InputError, UsageError
from rqchat.ui.console import Screen
from rqchat.ui.text import format_count

if TYPE_CHECKING:
    from rqchat.engine.inputs.documents import Document
    from rqchat.engine.inputs.pictures import Picture
    from rqchat.engine.inputs.urls import Download
import contextlib
import re
import shlex
from urllib.parse import unquote, urlsplit

__all__ = [
    "as_path",
    "document_from_bytes",
    "is_url",
    "load_documents",
    "load_picture",
    "one_path",
    "split_paths",
    "split_references",
]

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
    if _exists(as_path(text.strip())):
        return (text.strip(),)
    try:
        return tuple(shlex.split(text))
    except ValueError:
        raise UsageError(f"a quote is not closed in {text.strip()!r}") from None


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
    if _OTHER_URL.match(text) and not _exists(path):
        raise UsageError(f"{text} cannot be fetched; only http:// and https:// can, and files")
    if not _exists(path):
        with contextlib.suppress(UsageError):
            unquoted = split_paths(text)
            if len(unquoted) == 1 and _exists(unquoted[0]):
                return unquoted[0]
    return path


def is_url(text: str) -> bool:
    """Whether `text` is the address of something on the web."""
    return text.lower().startswith(("http://", "https://"))


def as_path(text: str) -> Path:
    """One path from one unquoted word: `file://` URLs are decoded and `~` is the home folder."""
    parts = urlsplit(text) if text.startswith("file://") else None
    path = Path(unquote(parts.path) if parts else text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, for one
        return False


_HTML_SUFFIXES = (".html", ".htm", ".xhtml")
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_HEADER_BYTES = 1024  # blanks may stand before the header of a PDF file, up to here
_NAMED_FILES = 8


def load_picture(reference: str, screen: Screen, *, offline: bool = False) -> Picture:
    """The picture that `reference` names: a path as typed or dropped, `file://`, or a URL.

    Raises:
        UsageError: a URL, where the network may not be touched.
        InputError: it cannot be had or is no picture.
    """
    from rqchat.engine.inputs.pictures import MAX_PICTURE_BYTES, decode_picture, read_picture

    if is_url(reference):
        return decode_picture(_get(reference, MAX_PICTURE_BYTES, screen, offline).data, reference)
    return read_picture(one_path(reference))


def load_documents(
    reference: str, screen: Screen, *, offline: bool = False, encoding: str | None = None
) -> tuple[Document, ...]:
    """The documents that `reference` names: one of a file or URL, several of a folder or pattern.

    Raises:
        UsageError: a URL, where the network may not be touched; an unknown `encoding`.
        InputError: it cannot be had or holds no text.
    """
    from rqchat.engine.inputs.documents import MAX_DOCUMENT_BYTES, read_bytes
    from rqchat.engine.inputs.folders import read_files, read_folder

    if is_url(reference):
        got = _get(reference, MAX_DOCUMENT_BYTES, screen, offline)
        made = document_from_bytes(
            got.data,
            reference,
            screen,
            encoding=encoding or got.charset,
            is_html=got.media_type in _HTML_TYPES,
        )
        return (made,)
    path = one_path(reference)
    if os.path.isdir(path):  # unlike the method, False for names that are too long
        found = read_folder(path, encoding=encoding)
    elif not os.path.exists(path) and (paths := _matches(reference)):
        found = read_files(paths, reference, encoding=encoding)
    else:
        data = read_bytes(path, MAX_DOCUMENT_BYTES, "a text file")
        is_html = path.suffix.lower() in _HTML_SUFFIXES
        name = str(path)
        return (document_from_bytes(data, name, screen, encoding=encoding, is_html=is_html),)
    if not found.documents:
        raise InputError(f"{reference} matches no text files; check the spelling and the folder")
    screen.note(_list(reference, "read:", [document.name for document in found.documents]))
    if found.left_out:
        what = f"left out, no text in {(encoding or 'UTF-8').upper()}:"
        screen.note(_list(reference, what, found.left_out), style="warning")
    return found.documents


def document_from_bytes(
    data: bytes,
    name: str,
    screen: Screen,
    *,
    encoding: str | None = None,
    is_html: bool = False,
) -> Document:
    """Text, or the text of a PDF file or an HTML page, whichever `data` is.

    Raises:
        UsageError: there is no such `encoding`.
        InputError: it holds no text.
    """
    from rqchat.engine.inputs.documents import Document, decode_document
    from rqchat.engine.inputs.html import html_charset, html_text, looks_like_html

    if data[:_HEADER_BYTES].lstrip().startswith(b"%PDF-"):
        from rqchat.engine.inputs.pdf import pdf_document

        screen.status(f"reading {name}")
        document = pdf_document(data, name)
        screen.clear_status()
        if document.note:
            screen.note(document.note, style="warning")
        return document
    is_html = is_html or looks_like_html(data)
    if is_html:
        encoding = encoding or html_charset(data)
    document = decode_document(data, name, encoding=encoding)
    if not is_html:
        return document
    text = html_text(document.text)
    if not text.strip():
        raise InputError(f"{name} is a page without text; a script may write it in a browser")
    return Document(name, text)


def _get(url: str, max_bytes: int, screen: Screen, offline: bool) -> Download:
    from rqchat.engine.inputs.urls import download

    if offline:
        raise UsageError(f"{url} is on the network, which --offline forbids; download it before")
    screen.status(f"fetching {url}")
    try:
        return download(url, max_bytes=max_bytes)
    finally:
        screen.clear_status()


def _matches(pattern: str) -> list[Path]:
    """Files that a pattern names which the shell has not expanded, such as one in quotes."""
    if not glob.has_magic(pattern):
        return []
    return [Path(name) for name in glob.glob(str(as_path(pattern)), recursive=True)]


def _list(reference: str, what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_FILES])
    more = len(names) - _NAMED_FILES
    rest = f" and {format_count(more)} more" if more > 0 else ""
    files = f"{format_count(len(names))} file{'' if len(names) == 1 else 's'}"
    return f"{reference}: {files} {what} {shown}{rest}"
