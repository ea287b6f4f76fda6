"""Small PDF files. No torch."""

from __future__ import annotations

import io

from PIL import Image
from pypdf import PdfReader, PdfWriter

__all__ = ["BLANK", "pdf_bytes", "scan_pdf_bytes"]

BLANK = "blank"


def pdf_bytes(*pages: str) -> bytes:
    """A PDF file with one line of text on each page; an empty one has only a drawing, and
    `BLANK` nothing."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET" if text else "0 0 9 9 re f"
        drawn = "" if text == BLANK else drawn
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources"
            f" << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{content}\nendobj\n".encode())
    start = out.tell()
    rows = "".join(f"{place:010d} 00000 n \n" for place in places)
    count = len(objects) + 1
    out.write(f"xref\n0 {count}\n0000000000 65535 f \n{rows}".encode())
    out.write(f"trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def scan_pdf_bytes(*colours: str, stamp: str = "") -> bytes:
    """A PDF file of scanned pages, each a picture with a coloured square; `stamp` is text on it."""
    pages = []
    for colour in colours:
        page = Image.new("RGB", (827, 1169), "white")
        page.paste(colour, (200, 400, 627, 800))
        pages.append(page)
    out = io.BytesIO()
    pages[0].save(out, "PDF", save_all=True, append_images=pages[1:], resolution=100)
    if not stamp:
        return out.getvalue()
    writer = PdfWriter(clone_from=PdfReader(out))
    for page_object in writer.pages:
        page_object.merge_page(PdfReader(io.BytesIO(pdf_bytes(stamp))).pages[0])
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()
