"""Documents: text in every encoding, HTML made of broken tags, damaged PDF files."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

from rqchat.engine.inputs.references import ReferenceReader
from tests.fuzz.damage import damaged
from tests.pdf_files import pdf_bytes

_PIECES = (
    *("<a ", "<a href='", '<a href="', "<!--", "-->", "<![x", "<![CDATA[", "<?", "</", ">", "<p>"),
    *("</p>", "<script>", "</script", "<svg>", "</math>", "<title>", "<pre>", "<td>", "&#", "&lt"),
    *("&#99999999999;", "&#xd800;", "&#x1b;", "&#x202e;", " = ", "'", '"', "/>", "text", "\n", "<"),
    *("<meta charset=punycode>", "<html>", "<!doctype html>", "\x1b[2J", "\ufeff", "\u0000", "é"),
)
_ENCODINGS = ("utf-8", "utf-16", "utf-32", "latin1", "cp1252", "shift_jis", "utf-7")
_ASKED = (
    None,
    None,
    None,
    "utf-8",
    "latin1",
    "utf-16",
    "punycode",
    "hex",
    "no\0ne",
    "\udce9",
    "idna",
)
_CONTENTS = (
    b"(",
    b"[",
    b"<<",
    b"(a) Tj ",
    b"BT ",
    b"ET ",
    b"q ",
    b"/F1 9 Tf ",
    b"\xfe\xff\xd8\x00",
)
_PDF_SHARE = 0.03  # each starts a process


def try_one(made: random.Random, folder: Path) -> None:
    """A text, a page or a PDF file to the reader of documents."""
    name = made.choice(("notes", "\x1b]0;x\x07.html", "caf\udce9", "page.html"))
    reader = ReferenceReader(lambda event: None, encoding=made.choice(_ASKED))
    reader.decode(_pdf(made) if made.random() < _PDF_SHARE else _text(made), name)


def _text(made: random.Random) -> bytes:
    size = made.choice((3, 30, 300))
    pieces = [made.choice(_PIECES) for _ in range(size)]
    if made.random() < 0.3:
        pieces.append(made.choice(_PIECES) * 20_000)
    if made.random() < 0.5:
        pieces.insert(
            0, made.choice(("<!---->" * made.randint(1, 140), "<html>", "<?xml ?><html>"))
        )
    whole = "".join(pieces).encode(made.choice(_ENCODINGS), "replace")
    return damaged(made, whole) if made.random() < 0.3 else whole


def _pdf(made: random.Random) -> bytes:
    whole = pdf_bytes("one", made.choice(("two", "")))
    if made.random() < 0.5:
        content = made.choice(_CONTENTS) * made.choice((10, 10_000, 1_000_000))
        packed = zlib.compress(content)
        start = whole.index(b"<< /Length")
        stream = b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream"
        whole = (
            whole[:start]
            + stream % (len(packed), packed)
            + whole[whole.index(b"\nendobj", start) :]
        )
    return damaged(made, whole)
