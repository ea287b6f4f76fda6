"""The text of PDF files, through pypdf. No torch.

pypdf is imported when the first PDF file is read: it takes a quarter of the prompt's start.
"""

from __future__ import annotations

import io
import logging

from rqchat.engine.inputs.documents import Document
from rqchat.errors import InputError

__all__ = ["pdf_document"]

_NAMED_PAGES = 10


def pdf_document(data: bytes, name: str) -> Document:
    """The text of a PDF file, page by page; its note names the pages that hold none.

    Raises:
        InputError: damaged, locked with a password, or without text, as scans are.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its repairs are no news for users
    try:
        reader = PdfReader(io.BytesIO(data))
        # No password opens files that only forbid printing or copying.
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(
                f"{name} is locked with a password; unlock it first, for example:"
                f" qpdf --decrypt --password=... {name} unlocked.pdf"
            )
        pages = [page.extract_text().strip() for page in reader.pages]
    except DependencyError as error:
        raise InputError(f"{name} is encrypted: {error}; or unlock it first") from None
    except (PyPdfError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError,
            RecursionError, ArithmeticError, NotImplementedError) as error:  # fmt: skip
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{name} is a damaged PDF file: {reason}") from None
    empty = [number for number, text in enumerate(pages, 1) if not text]
    if len(empty) == len(pages):
        raise InputError(
            f"{name} holds no text on any of its pages ({len(pages)}), as scans do; make pictures"
            " of them and pass those with --image, or run text recognition over it first"
        )
    text = "\n\n".join(page for page in pages if page)
    return Document(name, text, _note(name, empty, len(pages)) if empty else "")


def _note(name: str, empty: list[int], count: int) -> str:
    named = ", ".join(map(str, empty[:_NAMED_PAGES])) + (", ..." if empty[_NAMED_PAGES:] else "")
    return f"{name}: {len(empty)} of {count} pages hold no text, only pictures or nothing ({named})"
