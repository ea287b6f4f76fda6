"""Texts and pictures from what a person names: a path, a folder, a pattern or a URL. No torch.

What there is to say meanwhile leaves as events, so that nothing here knows the screen.
"""

from __future__ import annotations

import glob
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import urlsplit

from rqchat.engine.events import FilesRead, InputEvent, InputNotice, InputProgress
from rqchat.engine.inputs.documents import (
    MAX_DOCUMENT_BYTES,
    Document,
    decode_document,
    is_text_encoding,
    read_bytes,
)
from rqchat.engine.inputs.folders import FolderFiles, matching_files, read_files, read_folder
from rqchat.engine.inputs.html import html_charset, html_text, looks_like_html
from rqchat.engine.inputs.pdf import PageRanges, looks_like_pdf, read_pdf
from rqchat.engine.inputs.pictures import (
    MAX_PICTURE_BYTES,
    Picture,
    decode_picture,
    looks_like_picture,
)
from rqchat.engine.inputs.reference_paths import as_path, is_url, one_path
from rqchat.engine.inputs.urls import Download, download
from rqchat.errors import InputError, UsageError

__all__ = ["ReferenceReader", "read_stream"]

_HTML_SUFFIXES = (".html", ".htm", ".xhtml")
_SVG_TYPE = "image/svg+xml"  # a drawing in words
_HTML_TYPES = ("text/html", "application/xhtml+xml")
_WAIT_NOTE_S = 1.0
_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ReferenceReader:
    """Reads what references name; a reference is a path, a folder, a pattern or a URL as typed.

    Attributes:
        on_event: gets `InputProgress`, `FilesRead` and `InputNotice`.
        offline: URLs are refused.
        encoding: of documents; None finds it out.
        pages: of PDF files; None reads them whole.
    """

    on_event: Callable[[InputEvent], None]
    offline: bool = False
    encoding: str | None = None
    pages: PageRanges | None = None

    def picture(self, reference: str) -> Picture:
        """The picture that `reference` names: a path as typed or dropped, `file://`, or a URL.

        Raises:
            UsageError: a URL, where the network may not be touched.
            InputError: it cannot be had or is no picture.
        """
        if is_url(reference):
            return decode_picture(self._fetch(reference, MAX_PICTURE_BYTES).data, reference)
        path = one_path(reference)
        data = self._bytes(path, MAX_PICTURE_BYTES, "a picture, such as NAME.png")
        return decode_picture(data, str(path))

    def read(self, reference: str) -> tuple[Document | Picture, ...]:
        """What `reference` names: one of a file or URL, several of a folder or pattern.

        Raises:
            UsageError: a URL, where the network may not be touched; an unknown encoding.
            InputError: it cannot be had, or is neither text nor a picture.
        """
        if is_url(reference):
            page = self._fetch(reference, MAX_DOCUMENT_BYTES)
            is_picture = page.media_type.startswith("image/") and page.media_type != _SVG_TYPE
            if is_picture or looks_like_picture(page.data, urlsplit(reference).path):
                return (decode_picture(page.data, reference),)
            is_html = page.media_type in _HTML_TYPES
            encoding = self.encoding or _known(page.charset)
            return self._document(page.data, reference, encoding, is_html)
        path = one_path(reference)
        if os.path.isdir(path):  # unlike the method, False for names that are too long
            return self._several(reference, read_folder(path, self._in_folder))
        # A file whose name looks like a pattern is meant before the pattern.
        if not os.path.exists(path) and (paths := _matches(reference)):
            return self._several(reference, read_files(paths, reference, self._in_folder))
        return self.decode(self._bytes(path, MAX_DOCUMENT_BYTES, "a file"), str(path))

    def decode(self, data: bytes, name: str) -> tuple[Document | Picture, ...]:
        """A picture, text, the text of an HTML page, or text and pictures of the pages of a PDF
        file, whichever `data` is.

        Raises:
            UsageError: there is no such encoding.
            InputError: it is neither text nor a picture.
        """
        if looks_like_picture(data, name):
            return (decode_picture(data, name),)
        is_html = name.lower().endswith(_HTML_SUFFIXES)
        return self._document(data, name, self.encoding, is_html)

    def _in_folder(self, data: bytes, name: str) -> tuple[Document | Picture, ...]:
        """As `decode`, but for pages, which are source there."""
        if looks_like_picture(data, name) or looks_like_pdf(data):
            return self.decode(data, name)
        return (decode_document(data, name, encoding=self.encoding),)

    def _document(
        self, data: bytes, name: str, encoding: str | None, is_html: bool
    ) -> tuple[Document | Picture, ...]:
        """As `decode`, of what is no picture; `is_html` is what the name or the server says."""
        if looks_like_pdf(data):
            with self._progress("reading", name):
                content = read_pdf(data, name, self.pages)
            if content.note:
                self.on_event(InputNotice(content.note))
            text = () if content.document is None else (content.document,)
            return (*text, *content.pictures)
        is_html = is_html or looks_like_html(data)
        if is_html:
            encoding = encoding or _known(html_charset(data))
        document = decode_document(data, name, encoding=encoding)
        if not is_html:
            return (document,)
        text = html_text(document.text)
        if not text.strip():
            raise InputError(f"{name} is a page without text; a script may write it in a browser")
        return (Document(name, text),)

    def _bytes(self, path: Path, max_bytes: int, wanted: str) -> bytes:
        """As `read_bytes`; of a named pipe and the like says that it waits."""
        if os.path.isfile(path) or not os.path.exists(path):
            return read_bytes(path, max_bytes, wanted)
        with _waiting(str(path), self.on_event):
            return read_bytes(path, max_bytes, wanted)

    def _several(self, reference: str, found: FolderFiles) -> tuple[Document | Picture, ...]:
        if not found.items:
            raise InputError(
                f"{reference} matches no texts and no pictures; check the spelling and the folder"
            )
        self.on_event(FilesRead(reference, found.names, found.left_out, self.encoding or "utf-8"))
        return found.items

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


def read_stream(
    stream: BinaryIO, name: str, max_bytes: int, on_event: Callable[[InputEvent], None]
) -> bytes:
    """All of `stream`, which may be a pipe; says that it waits when the end is not there soon.

    Raises:
        InputError: it has more than `max_bytes`, or cannot be read.
    """
    data = io.BytesIO()
    with _waiting(name, on_event):
        try:
            while piece := stream.read(_PIECE_BYTES):
                data.write(piece)
                if data.tell() > max_bytes:
                    raise InputError(
                        f"{name} has more than {max_bytes / 1e6:.0f} MB, which is the limit; give a"
                        " part of it"
                    )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{name} cannot be read: {reason}") from None
    return data.getvalue()


@contextmanager
def _waiting(name: str, on_event: Callable[[InputEvent], None]) -> Iterator[None]:
    note = threading.Timer(_WAIT_NOTE_S, on_event, [InputProgress("waiting for", name)])
    note.daemon = True
    note.start()
    try:
        yield
    finally:
        note.cancel()
        on_event(InputProgress("waiting for", name, is_over=True))


def _known(encoding: str | None) -> str | None:
    """What a page or its server calls its encoding, unless there is none of that name."""
    return encoding if encoding and is_text_encoding(encoding) else None


def _matches(pattern: str) -> list[Path]:
    """Files that a pattern names which the shell has not expanded, such as one in quotes."""
    return matching_files(str(as_path(pattern))) if glob.has_magic(pattern) else []
