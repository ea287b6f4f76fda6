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

from pypdf import PdfReader
from pypdf.errors import DependencyError

__all__ = ["read_pages"]

_CAUSE_CHARACTERS = 200


def read_pages(data: bytes, most_characters: int) -> dict[str, Any]:
    """What a PDF file holds, under one of four names.

    Returns:
        `pages`: the text of each; `locked`: True where it asks for a password; `encrypted`: why it
        cannot be decrypted; `long`: True where there are more than `most_characters`.

    Raises:
        Exception: any at all, where the file is damaged.
    """
    reader = PdfReader(io.BytesIO(data))
    try:
        if reader.is_encrypted and not reader.decrypt(""):
            return {"locked": True}
        pages: list[str] = []
        for page in reader.pages:
            pages.append(page.extract_text().strip())
            most_characters -= len(pages[-1])
            if most_characters < 0:
                return {"long": True}
    except DependencyError as error:
        return {"encrypted": str(error)}
    return {"pages": pages}


def _limit(seconds: int, memory_bytes: int) -> None:
    # Some systems know no limit of memory, and none lets a process raise what it was given
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def main() -> None:
    """`pdf_pages.py SECONDS MEMORY_BYTES MOST_CHARACTERS`, the file on standard input."""
    seconds, memory_bytes, most_characters = map(int, sys.argv[1:])
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its repairs are no news for users
    _limit(seconds, memory_bytes)
    try:
        answer = read_pages(sys.stdin.buffer.read(), most_characters)
    except MemoryError:
        answer = {"damaged": "it takes more memory than it may"}
    except Exception as error:  # the border to pypdf
        said = str(error).partition("\n")[0][:_CAUSE_CHARACTERS]
        answer = {"damaged": f"{said} ({type(error).__name__})" if said else type(error).__name__}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
