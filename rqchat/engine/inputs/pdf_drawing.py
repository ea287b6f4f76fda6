"""Pages of a PDF file as pictures: a program of its own, with bounds that the system holds.

As `pdf_pages.py`, and for the same reasons; PDFium is C++ besides, and a file that breaks it ends
this process alone. `pdf.py` reads a line of JSON for each page from standard output.
"""

from __future__ import annotations

import base64
import io
import json
import math
import resource
import sys
from contextlib import suppress
from typing import Any

import pypdfium2
from PIL import Image

__all__ = ["draw_page"]

_POINTS_PER_INCH, _MOST_DOTS_PER_INCH = 72, 300
_MOST_ASPECT = 50
_QUALITY = 92  # of JPEG: letters keep their edges, and a page takes some 0.5 MB


def draw_page(file: pypdfium2.PdfDocument, number: int, most_pixels: int) -> Image.Image | None:
    """Page `number`, from 1 on, with at most so many pixels; None where nothing is on it.

    Raises:
        Exception: any at all, where it is damaged.
    """
    page = file[number - 1]
    width, height = page.get_size()
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"it is {width} x {height} points large")
    if max(width, height) > _MOST_ASPECT * min(width, height):
        raise ValueError(f"it is {width:.0f} x {height:.0f} points, too long and thin")
    scale = math.sqrt(most_pixels / (width * height))
    scale = min(scale, _MOST_DOTS_PER_INCH / _POINTS_PER_INCH)
    image: Image.Image = page.render(scale=scale).to_pil().convert("RGB")
    page.close()
    is_blank = all(low == high for low, high in image.getextrema())  # type: ignore[misc]
    return None if is_blank else image


def _answer(file: pypdfium2.PdfDocument, number: int, most_pixels: int) -> dict[str, Any]:
    try:
        image = draw_page(file, number, most_pixels)
    except MemoryError:
        return {"page": number, "failed": "it takes more memory than it may"}
    except Exception as error:  # the border to PDFium
        return {"page": number, "failed": str(error).partition("\n")[0] or type(error).__name__}
    if image is None:
        return {"page": number, "blank": True}
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=_QUALITY, subsampling=0)
    return {"page": number, "jpeg": base64.b64encode(packed.getvalue()).decode("ascii")}


def _limit(seconds: int, memory_bytes: int) -> None:
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def main() -> None:
    """`pdf_drawing.py SECONDS MEMORY_BYTES MOST_PIXELS MOST_PICTURES NUMBERS`."""
    seconds, memory_bytes, most_pixels, most_pictures = map(int, sys.argv[1:5])
    _limit(seconds, memory_bytes)
    file = pypdfium2.PdfDocument(sys.stdin.buffer.read())
    with suppress(Exception):  # what was typed into a form is drawn where that works
        file.init_forms()
    for number in json.loads(sys.argv[5]):
        answer = _answer(file, number, most_pixels)
        most_pictures -= "jpeg" in answer
        if most_pictures < 0:
            answer = {"many": True}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()  # what came before a page that breaks PDFium is of use
        if most_pictures < 0:
            return


if __name__ == "__main__":
    main()
