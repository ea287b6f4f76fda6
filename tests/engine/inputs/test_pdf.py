"""PDF files: their text, pictures of pages without any, and a sentence where there is neither."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from rqchat.engine.inputs import pdf
from rqchat.engine.inputs.pdf import PageRanges, read_pdf
from rqchat.errors import InputError, UsageError
from tests.pdf_files import BLANK, pdf_bytes, scan_pdf_bytes


def _locked(user_password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf_bytes("a secret"))))
    writer.encrypt(user_password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _text(data: bytes, pages: str = "1-") -> str:
    document = read_pdf(data, "x.pdf", PageRanges.parse(pages)).document
    return document.text if document else ""


def test_pages_in_order_and_by_number() -> None:
    content = read_pdf(pdf_bytes("Call me Ishmael.", "Some years ago"), "whale.pdf")
    assert content.document is not None and content.document.name == "whale.pdf"
    assert content.document.text == "[page 1]\nCall me Ishmael.\n\n[page 2]\nSome years ago"
    assert (content.pictures, content.note) == ((), "")
    assert _text(pdf_bytes("One page")) == "One page"


def test_pages_without_text_are_pictures_that_have_names() -> None:
    content = read_pdf(pdf_bytes("one", "", "three", "", BLANK), "a/mixed.pdf")
    assert content.document is not None
    assert content.document.text == (
        "[page 1]\none\n\n[page 2, shown as a picture below]\n\n[page 3]\nthree\n\n"
        "[page 4, shown as a picture below]"
    )
    assert [p.name for p in content.pictures] == ["page 2 of mixed.pdf", "page 4 of mixed.pdf"]
    assert content.note == "a/mixed.pdf: 2 of 5 pages read as pictures (2, 4), 1 blank (5)"


def test_a_scan_is_pictures_of_its_pages() -> None:
    """In reading order, of some three megapixels; what is stamped on a page is not its text."""
    content = read_pdf(scan_pdf_bytes("red", "lime", stamp="Scanned with X"), "scan.pdf")
    sizes = [picture.image.size for picture in content.pictures]
    middles = [p.image.resize((1, 1)).tobytes() for p in content.pictures]
    assert all(2_700_000 < width * height <= 3_010_000 for width, height in sizes)
    assert [max(range(3), key=list(middle).__getitem__) for middle in middles] == [0, 1]
    assert content.document is not None and content.document.text.count("Scanned with X") == 2


@pytest.mark.parametrize(
    ("written", "read"),
    [("2", "b"), ("2-3", "bc"), ("3-", "cd"), ("1,3-4", "acd"), (" 2-2 , 1 ", "ab")],
)
def test_named_pages_alone(written: str, read: str) -> None:
    text = _text(pdf_bytes("a", "b", "c", "d"), written)
    assert text.split() == [word for a in read for word in ("[page", f"{'abcd'.index(a) + 1}]", a)]


@pytest.mark.parametrize("written", ["", "0", "3-2", "x", "1-2-3", "-3", "1;2", "9" * 12])
def test_what_names_no_pages_is_a_usage_error(written: str) -> None:
    with pytest.raises(UsageError, match="--pages is .*; write such as 3, 3-9, 12- or 1,4-6"):
        PageRanges.parse(written)


def test_pages_that_are_not_there_are_a_sentence() -> None:
    with pytest.raises(InputError, match=r"x.pdf has 2 pages, and --pages 2-3 asks for others"):
        _text(pdf_bytes("a", "b"), "2-3")


def test_too_many_pages_are_never_cut_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MAX_PAGE_PICTURES", 1)
    with pytest.raises(InputError, match=r"more than 1 pages without text.*--pages 1-1"):
        _text(pdf_bytes("a", "", ""))
    assert len(read_pdf(pdf_bytes("a", "", ""), "x", PageRanges.parse("1-2")).pictures) == 1


@pytest.mark.parametrize("box", ["0 0 0 0", "0 0 1 100000000", "0 0 nan 7", "0 0 1e30 1e30"])
def test_pages_of_odd_shapes_take_no_more_and_are_named(box: str) -> None:
    odd = pdf_bytes("", "text").replace(b"0 0 612 792", box.encode(), 1)
    content = read_pdf(odd, "x.pdf")
    assert content.document is not None and "text" in content.document.text
    assert content.note.startswith("x.pdf: 1 ")
    assert all(p.image.width * p.image.height <= 3_010_000 for p in content.pictures)


def test_what_breaks_the_drawing_costs_the_text_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "_DRAWING_PROGRAM", Path(__file__).with_name("no_such_program.py"))
    content = read_pdf(pdf_bytes("one", ""), "x.pdf")
    assert content.document is not None and content.document.text == "[page 1]\none"
    assert content.note.startswith("x.pdf: 1 left out, which cannot be drawn (2): ")
    with pytest.raises(InputError, match=r"x.pdf holds no text and no pictures on 1 page: page 1"):
        read_pdf(pdf_bytes(""), "x.pdf")


def test_blank_pages_alone_are_a_sentence() -> None:
    with pytest.raises(InputError, match="on 2 pages: they are blank"):
        read_pdf(pdf_bytes(BLANK, BLANK), "x.pdf")


def test_a_password_is_a_sentence() -> None:
    with pytest.raises(InputError, match="locked with a password; unlock it first"):
        read_pdf(_locked("user"), "x.pdf")


def test_a_file_that_opens_without_a_password_is_read() -> None:
    assert _text(_locked("")) == "a secret"


def _unpacks_to(content: bytes) -> bytes:
    whole, packed = pdf_bytes("one"), zlib.compress(content)
    start = whole.index(b"<< /Length")
    stream = b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(packed)
    end = whole.index(b"\nendstream", start)
    return whole[:start] + stream + packed + whole[end:]


def test_a_file_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "_SECONDS", 1)
    monkeypatch.setattr(pdf, "_SECONDS_PER_MB", 0)
    bomb = _unpacks_to(b"BT /F1 12 Tf (a) Tj ET\n" * 1_000_000)
    with pytest.raises(InputError, match="x.pdf takes more than 1 seconds or more memory to read"):
        read_pdf(bomb, "x.pdf")


def test_a_file_that_takes_too_much_memory_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "_MEMORY_BYTES", 2**27)
    with pytest.raises(InputError, match="x.pdf is a damaged PDF file: it takes more memory"):
        read_pdf(_unpacks_to(b"( " * 30_000_000), "x.pdf")


@pytest.mark.parametrize("content", [b"[" * 20_000, b"<<" * 20_000])
def test_odd_contents_are_a_sentence(content: bytes) -> None:
    with pytest.raises(InputError, match="x.pdf (is a damaged PDF file|holds no text)"):
        read_pdf(_unpacks_to(content), "x.pdf")


@settings(max_examples=8)  # each starts a process; tests/fuzz tries more
@given(st.data())
def test_a_damaged_file_is_a_sentence_or_text(data: st.DataObject) -> None:
    whole = pdf_bytes("one", "two")
    start = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(1, 80))
    damaged = whole[:start] + data.draw(st.binary(max_size=40)) + whole[start + length :]
    try:
        content = read_pdf(damaged, "x.pdf")
        assert content.pictures or content.document
    except InputError as error:
        assert str(error).startswith("x.pdf ")
