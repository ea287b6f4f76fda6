"""PDF files: the text of their pages, and pages without any as pictures. No torch.

pypdf and PDFium each run in a process of their own (`pdf_pages.py`, `pdf_drawing.py`).
"""

from __future__ import annotations

import base64
import json
import os.path
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rqchat.engine.inputs.documents import MAX_TEXT_BYTES, Document
from rqchat.engine.inputs.pictures import Picture, decode_picture, is_page_name, page_name
from rqchat.errors import InputError, UsageError

__all__ = [
    "MAX_PAGE_PICTURES",
    "PageRanges",
    "PdfContent",
    "check_pages_used",
    "looks_like_pdf",
    "read_pdf",
]

MAX_PAGE_PICTURES = 100
_PAGE_PIXELS = 3_000_000  # a little more than the largest budget of image tokens takes
_HEADER_BYTES = 1024  # blanks may stand before the header, up to here
_NAMED_PAGES = 10
_PAGES_PROGRAM = Path(__file__).with_name("pdf_pages.py")
_DRAWING_PROGRAM = Path(__file__).with_name("pdf_drawing.py")
# A page takes some 50 ms on a slow machine, and 3 KB of the file where it is nothing but text
_SECONDS, _SECONDS_PER_MB = 10, 40
_SECONDS_PER_PICTURE = 2
_MEMORY_BYTES = 2**30
_RANGE = re.compile(r"(\d{1,9})(-(\d{1,9})?)?")


@dataclass(frozen=True, slots=True)
class PageRanges:
    """Pages that somebody names.

    Attributes:
        written: as the user wrote them.
        ranges: first and last page of each, from 1 on; None is the last page of the file.
    """

    written: str
    ranges: tuple[tuple[int, int | None], ...]

    @classmethod
    def parse(cls, text: str) -> PageRanges:
        """Of `3`, `3-9`, `12-` and several of them with commas between.

        Raises:
            UsageError: `text` is none of that.
        """
        found = [_RANGE.fullmatch(part.strip()) for part in text.split(",")]
        ranges = [
            (int(each[1]), int(each[3] or each[1]) if not each[2] or each[3] else None)
            for each in found
            if each
        ]
        if not all(found) or any(first < 1 or (last or first) < first for first, last in ranges):
            raise UsageError(f"--pages is {text!r}; write such as 3, 3-9, 12- or 1,4-6")
        return cls(text, tuple(ranges))


class PdfContent(NamedTuple):
    """What was read.

    Attributes:
        document: the text, page by page; None where no page holds any.
        pictures: of the pages without text, in order.
        note: what the user should know, such as which pages those are; empty for nothing.
    """

    document: Document | None
    pictures: tuple[Picture, ...]
    note: str


def looks_like_pdf(data: bytes) -> bool:
    """Whether `data` is a PDF file, by how it begins."""
    return data[:_HEADER_BYTES].lstrip().startswith(b"%PDF-")


def read_pdf(data: bytes, name: str, pages: PageRanges | None = None) -> PdfContent:
    """The text of a PDF file, and pictures of the pages that hold none, as scans do.

    Args:
        data: the file.
        name: what errors and the model call it.
        pages: those to read; None for all of them.

    Raises:
        InputError: damaged, locked with a password, empty, without those pages, with more than
            `MAX_PAGE_PICTURES` pages without text, or beyond the bounds of time and memory that a
            file of its size has.
    """
    texts, count, unread = _texts(data, name, pages)
    drawn = _draw(data, name, unread) if unread else {}
    failed = {number: page["failed"] for number, page in drawn.items() if "failed" in page}
    label = os.path.basename(name.rstrip("/")) or name
    pictures = {
        number: decode_picture(base64.b64decode(page["jpeg"]), page_name(number, label))
        for number, page in drawn.items()
        if "jpeg" in page
    }
    if not pictures and not any(texts.values()):
        first = next(iter(failed.items()), None)
        why = f"page {first[0]} cannot be drawn: {first[1]}" if first else "they are blank"
        raise InputError(f"{name} holds no text and no pictures on {_counted(len(texts))}: {why}")
    text = "\n\n".join(
        (f"{_mark(number, number in pictures)}\n{text}" if count > 1 else text).rstrip()
        for number, text in texts.items()
        if text or number in pictures
    )
    document = Document(name, text, len(texts)) if any(texts.values()) else None
    return PdfContent(document, tuple(pictures.values()), _note(name, texts, pictures, failed))


def check_pages_used(pages: PageRanges, items: Sequence[Document | Picture]) -> None:
    """Raises UsageError where nothing of `items` comes from a PDF file."""
    for item in items:
        if is_page_name(item.name) if isinstance(item, Picture) else item.pages:
            return
    raise UsageError(f"--pages {pages.written} is for PDF files, and none was given")


def _mark(number: int, is_drawn: bool) -> str:
    return f"[page {number}, shown as a picture below]" if is_drawn else f"[page {number}]"


def _texts(
    data: bytes, name: str, pages: PageRanges | None
) -> tuple[dict[int, str], int, list[int]]:
    """The text of each page by its number, how many pages there are, and which have to be seen."""
    seconds = _SECONDS + _SECONDS_PER_MB * len(data) // 1_000_000
    ranges = pages.ranges if pages else ((1, None),)
    arguments = (MAX_TEXT_BYTES, json.dumps(ranges))
    done = _run(_PAGES_PROGRAM, data, name, seconds, *arguments)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise InputError(f"{name} cannot be read: {_reason(done)}") from None
    if pages and "beyond" in answer:
        raise InputError(
            f"{name} has {_counted(answer['beyond'])}, and --pages {pages.written} asks for others"
        )
    _check(answer, name)
    # pypdf may leave halves of characters beyond 16 bits, which no encoding takes
    texts = {
        number: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for number, text, _ in answer["pages"]
    }
    return texts, answer["count"], [number for number, _, is_unread in answer["pages"] if is_unread]


def _check(answer: Mapping[str, Any], name: str) -> None:
    """Raises InputError where `pdf_pages.py` could not read the file."""
    if "locked" in answer:
        raise InputError(
            f"{name} is locked with a password; unlock it first, for example:"
            f" qpdf --decrypt --password=... {name} unlocked.pdf"
        )
    if "encrypted" in answer:
        raise InputError(f"{name} is encrypted: {answer['encrypted']}; or unlock it first")
    if "damaged" in answer:
        raise InputError(f"{name} is a damaged PDF file: {answer['damaged']}")
    if "long" in answer:
        raise InputError(
            f"{name} has more than {MAX_TEXT_BYTES / 1e6:.0f} MB of text, which no context holds;"
            " name some of its pages with --pages"
        )
    if not answer["pages"]:
        raise InputError(f"{name} has no pages")


def _draw(data: bytes, name: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What `pdf_drawing.py` says of each page; it may break at one, whose followers fail then."""
    seconds = _SECONDS + _SECONDS_PER_PICTURE * min(len(numbers), MAX_PAGE_PICTURES)
    arguments = (_PAGE_PIXELS, MAX_PAGE_PICTURES, json.dumps(list(numbers)))
    done = _run(_DRAWING_PROGRAM, data, name, seconds, *arguments)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.endswith(b"}")]
    if any("many" in answer for answer in answers):
        raise InputError(
            f"{name} has more than {MAX_PAGE_PICTURES} pages without text, which are read as"
            f" pictures; name some of them, such as --pages 1-{MAX_PAGE_PICTURES}"
        )
    found = {answer["page"]: answer for answer in answers}
    if len(found) < len(numbers):
        why = _reason(done)
        found |= {number: {"failed": why} for number in numbers if number not in found}
    return found


def _run(
    program: Path, data: bytes, name: str, seconds: int, *arguments: object
) -> subprocess.CompletedProcess[bytes]:
    limits = (seconds, _MEMORY_BYTES + 2 * len(data))
    # -P: beside the program lies our html.py, which is not Python's
    command = [sys.executable, "-P", str(program), *map(str, (*limits, *arguments))]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL) and not done.stdout:
        raise InputError(
            f"{name} takes more than {seconds} seconds or more memory to read than a PDF file of"
            " its size should; save it again with another program, give its text, or name some of"
            " its pages with --pages"
        )
    return done


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """Why a program gave no whole answer."""
    if done.returncode == -signal.SIGXCPU:
        return "it takes too long"
    if done.returncode < 0:
        return f"its reader ended with {signal.Signals(-done.returncode).name}"
    said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return said or "its reader gave no answer"


def _note(
    name: str, texts: Mapping[int, str], pictures: Mapping[int, Picture], failed: Mapping[int, str]
) -> str:
    parts = []
    if pictures:
        which = "" if len(pictures) == len(texts) else f" ({_named(pictures)})"
        parts.append(f"{len(pictures)} of {_counted(len(texts))} read as pictures{which}")
    empty = [number for number, text in texts.items() if not text]
    if blank := [number for number in empty if number not in pictures and number not in failed]:
        parts.append(f"{len(blank)} blank ({_named(blank)})")
    if failed:
        why = next(iter(failed.values()))
        parts.append(f"{len(failed)} left out, which cannot be drawn ({_named(failed)}): {why}")
    return f"{name}: {', '.join(parts)}" if parts else ""


def _counted(count: int) -> str:
    return f"{count:,} page{'' if count == 1 else 's'}"


def _named(numbers: Sequence[int] | Mapping[int, Any]) -> str:
    some = list(numbers)
    return ", ".join(map(str, some[:_NAMED_PAGES])) + (", ..." if some[_NAMED_PAGES:] else "")
