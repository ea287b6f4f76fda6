"""Documents and pictures from what a person names: a path, a folder, a pattern or a URL. No torch.

What there is to say meanwhile leaves as events, so that nothing here knows the screen.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rqchat.engine.events import FilesRead, InputEvent, InputNotice, InputProgress
from rqchat.engine.inputs.documents import (
    MAX_DOCUMENT_BYTES,
    Document,
    decode_document,
    read_bytes,
)
from rqchat.engine.inputs.folders import FolderText, read_files, read_folder
from rqchat.engine.inputs.html import html_charset, html_text, looks_like_html
from rqchat.engine.inputs.pdf import pdf_document
from rqchat.engine.inputs.pictures import (
    MAX_PICTURE_BYTES,
    Picture,
    decode_picture,
    read_picture,
)
from rqchat.engine.inputs.reference_paths import as_path, is_url, one_path
from rqchat.engine.inputs.urls import Download, download
from rqchat.errors import InputError, UsageError

__all__ = ["ReferenceReader"]

_HTML_SUFFIXES = (".html", ".htm", ".xhtml")
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_HEADER_BYTES = 1024  # blanks may stand before the header of a PDF file, up to here


@dataclass(frozen=True, slots=True)
class ReferenceReader:
    """Reads what references name; a reference is a path, a folder, a pattern or a URL as typed.

    Attributes:
        on_event: gets `InputProgress`, `FilesRead` and `InputNotice`.
        offline: URLs are refused.
        encoding: of documents; None finds it out.
    """

    on_event: Callable[[InputEvent], None]
    offline: bool = False
    encoding: str | None = None

    def picture(self, reference: str) -> Picture:
        """The picture that `reference` names: a path as typed or dropped, `file://`, or a URL.

        Raises:
            UsageError: a URL, where the network may not be touched.
            InputError: it cannot be had or is no picture.
        """
        if is_url(reference):
            return decode_picture(self._fetch(reference, MAX_PICTURE_BYTES).data, reference)
        return read_picture(one_path(reference))

    def documents(self, reference: str) -> tuple[Document, ...]:
        """What `reference` names: one document of a file or URL, several of a folder or pattern.

        Raises:
            UsageError: a URL, where the network may not be touched; an unknown encoding.
            InputError: it cannot be had or holds no text.
        """
        if is_url(reference):
            page = self._fetch(reference, MAX_DOCUMENT_BYTES)
            is_html = page.media_type in _HTML_TYPES
            return (self._decode(page.data, reference, self.encoding or page.charset, is_html),)
        path = one_path(reference)
        if os.path.isdir(path):  # unlike the method, False for names that are too long
            return self._several(reference, read_folder(path, encoding=self.encoding))
        # A file whose name looks like a pattern is meant before the pattern.
        if not os.path.exists(path) and (paths := _matches(reference)):
            return self._several(reference, read_files(paths, reference, encoding=self.encoding))
        data = read_bytes(path, MAX_DOCUMENT_BYTES, "a text file")
        is_html = path.suffix.lower() in _HTML_SUFFIXES
        return (self._decode(data, str(path), self.encoding, is_html),)

    def document(self, data: bytes, name: str) -> Document:
        """Text, or the text of a PDF file or an HTML page, whichever `data` is.

        Raises:
            UsageError: there is no such encoding.
            InputError: it holds no text.
        """
        return self._decode(data, name, self.encoding, is_html=False)

    def _decode(self, data: bytes, name: str, encoding: str | None, is_html: bool) -> Document:
        """As `document`; `is_html` is what the name or the server says of it."""
        if data[:_HEADER_BYTES].lstrip().startswith(b"%PDF-"):
            with self._progress("reading", name):
                document = pdf_document(data, name)
            if document.note:
                self.on_event(InputNotice(document.note))
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

    def _several(self, reference: str, found: FolderText) -> tuple[Document, ...]:
        if not found.documents:
            raise InputError(
                f"{reference} matches no text files; check the spelling and the folder"
            )
        names = tuple(document.name for document in found.documents)
        self.on_event(FilesRead(reference, names, found.left_out, self.encoding or "utf-8"))
        return found.documents

    def _fetch(self, url: str, max_bytes: int) -> Download:
        if self.offline:
            raise UsageError(
                f"{url} is on the network, which --offline forbids; download it before"
            )
        with self._progress("fetching", url):
            return download(url, max_bytes=max_bytes)

    @contextmanager
    def _progress(self, step: Literal["fetching", "reading"], name: str) -> Iterator[None]:
        self.on_event(InputProgress(step, name))
        try:
            yield
        finally:
            self.on_event(InputProgress(step, name, is_over=True))


def _matches(pattern: str) -> list[Path]:
    """Files that a pattern names which the shell has not expanded, such as one in quotes."""
    if not glob.has_magic(pattern):
        return []
    return [Path(name) for name in glob.glob(str(as_path(pattern)), recursive=True)]
