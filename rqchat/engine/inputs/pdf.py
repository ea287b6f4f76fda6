"""The text of PDF files, through pypdf in a process of its own (`pdf_pages.py`). No torch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rqchat.engine.inputs.documents import MAX_TEXT_BYTES, Document
from rqchat.errors import InputError

__all__ = ["looks_like_pdf", "pdf_document"]

_HEADER_BYTES = 1024  # blanks may stand before the header, up to here
_NAMED_PAGES = 10
_PROGRAM = Path(__file__).with_name("pdf_pages.py")
# A page takes some 50 ms on a slow machine, and 3 KB of the file where it is nothing but text
_SECONDS, _SECONDS_PER_MB = 10, 40
_MEMORY_BYTES = 2**30


def looks_like_pdf(data: bytes) -> bool:
    """Whether `data` is a PDF file, by how it begins."""
    return data[:_HEADER_BYTES].lstrip().startswith(b"%PDF-")


def pdf_document(data: bytes, name: str) -> Document:
    """The text of a PDF file, page by page; its note names the pages that hold none.

    Raises:
        InputError: damaged, locked with a password, without text, as scans are, or beyond the
            bounds of time and memory that a file of its size has.
    """
    answer = _read(data, name)
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
            " split it, and give a part"
        )
    # pypdf may leave halves of characters beyond 16 bits, which no encoding takes
    pages = [
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for text in answer["pages"]
    ]
    empty = [number for number, text in enumerate(pages, 1) if not text]
    if len(empty) == len(pages):
        raise InputError(
            f"{name} holds no text on any of its pages ({len(pages)}), as scans do; make pictures"
            " of them and pass those with --image, or run text recognition over it first"
        )
    text = "\n\n".join(page for page in pages if page)
    return Document(name, text, _note(name, empty, len(pages)) if empty else "")


def _read(data: bytes, name: str) -> dict[str, Any]:
    """What `pdf_pages.py` answers."""
    seconds = _SECONDS + _SECONDS_PER_MB * len(data) // 1_000_000
    limits = (seconds, _MEMORY_BYTES + 2 * len(data), MAX_TEXT_BYTES)
    # -P: beside the program lies our html.py, which is not Python's
    command = [sys.executable, "-P", str(_PROGRAM), *map(str, limits)]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    except ValueError:
        pass
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise InputError(
            f"{name} takes more than {seconds} seconds or more memory to read than a PDF file of"
            " its size should; save it again with another program, or give its text"
        )
    reason = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    raise InputError(
        f"{name} cannot be read: {reason or f'its reader ended with code {done.returncode}'}"
    )


def _note(name: str, empty: list[int], count: int) -> str:
    named = ", ".join(map(str, empty[:_NAMED_PAGES])) + (", ..." if empty[_NAMED_PAGES:] else "")
    return f"{name}: {len(empty)} of {count} pages hold no text, only pictures or nothing ({named})"
