"""The text of each page of a PDF file: a program of its own, with bounds that the system holds.

PDF files hold programs, packed streams within packed streams, and references in circles, so what
one costs is known when it has been read. Here no file can take more than it was given; `pdf.py`
runs this with the file on standard input and reads one line of JSON from standard output.
"""

from __future__ import annotations

import io
import json
import logging
import resource
import sys
from contextlib import suppress
from typing import Any

from pypdf import PageObject, PdfReader
from pypdf.errors import DependencyError

__all__ = ["read_pages"]

_CAUSE_CHARACTERS = 200
# What a scanner or its program stamps on a page that is a picture otherwise
_STAMP_CHARACTERS, _SCAN_PIXELS = 60, 400_000


def read_pages(
    data: bytes, most_characters: int, ranges: list[tuple[int, int | None]]
) -> dict[str, Any]:
    """What a PDF file holds, under one of five names.

    Args:
        data: the file.
        most_characters: of all its text.
        ranges: first and last pages to read, from 1 on; None is the last page of the file.

    Returns:
        `pages`: for each its number, its text, and whether it has to be seen, too; `beyond`: how
        many pages there are, where more were asked for; `locked`: True where it asks for a
        password; `encrypted`: why it cannot be decrypted; `long`: True where there is more text.

    Raises:
        Exception: any at all, where the file is damaged.
    """
    reader = PdfReader(io.BytesIO(data))
    try:
        if reader.is_encrypted and not reader.decrypt(""):
            return {"locked": True}
        count = len(reader.pages)
        if any(max(first, last or 1) > count for first, last in ranges) and count:
            return {"beyond": count}
        numbers = {n for first, last in ranges for n in range(first, (last or count) + 1)}
        pages: list[tuple[int, str, bool]] = []
        for number in sorted(numbers):
            page = reader.pages[number - 1]
            text = page.extract_text().strip()
            is_stamp = len(text) <= _STAMP_CHARACTERS and _has_scan(page)
            pages.append((number, text, not text or is_stamp))
            most_characters -= len(text)
            if most_characters < 0:
                return {"long": True}
    except DependencyError as error:
        return {"encrypted": str(error)}
    return {"pages": pages, "count": count}


def _has_scan(page: PageObject) -> bool:
    """Whether a picture as large as a scan is on a page."""
    with suppress(Exception):  # what is damaged here, the text came without
        resources: Any = page["/Resources"]
        for each in resources["/XObject"].get_object().values():
            image = each.get_object()
            if image.get("/Subtype") == "/Image" and (
                int(image["/Width"]) * int(image["/Height"]) >= _SCAN_PIXELS
            ):
                return True
    return False


def _limit(seconds: int, memory_bytes: int) -> None:
    # Some systems know no limit of memory, and none lets a process raise what it was given
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def main() -> None:
    """`pdf_pages.py SECONDS MEMORY_BYTES MOST_CHARACTERS RANGES`, the file on standard input."""
    seconds, memory_bytes, most_characters = map(int, sys.argv[1:4])
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its repairs are no news for users
    _limit(seconds, memory_bytes)
    try:
        answer = read_pages(sys.stdin.buffer.read(), most_characters, json.loads(sys.argv[4]))
    except MemoryError:
        answer = {"damaged": "it takes more memory than it may"}
    except Exception as error:  # the border to pypdf
        said = str(error).partition("\n")[0][:_CAUSE_CHARACTERS]
        answer = {"damaged": f"{said} ({type(error).__name__})" if said else type(error).__name__}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
