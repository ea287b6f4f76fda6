"""PDF files: their text, and a sentence where there is none."""

from __future__ import annotations

import io
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from rqchat.engine.inputs import pdf
from rqchat.engine.inputs.pdf import pdf_document
from rqchat.errors import InputError
from tests.helpers import pdf_bytes


def _locked(user_password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf_bytes("a secret"))))
    writer.encrypt(user_password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_pages_in_order() -> None:
    document = pdf_document(pdf_bytes("Call me Ishmael.", "Some years ago"), "whale.pdf")
    assert (document.name, document.text) == ("whale.pdf", "Call me Ishmael.\n\nSome years ago")
    assert document.note == ""


def test_pages_without_text_are_named() -> None:
    document = pdf_document(pdf_bytes("one", "", "three", ""), "mixed.pdf")
    assert document.text == "one\n\nthree"
    assert document.note.startswith("mixed.pdf: 2 of 4 pages hold no text")
    assert document.note.endswith("(2, 4)")


def test_a_scan_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"holds no text on any of its pages \(2\), as scans do"):
        pdf_document(pdf_bytes("", ""), "scan.pdf")


def test_a_password_is_a_sentence() -> None:
    with pytest.raises(InputError, match="locked with a password; unlock it first"):
        pdf_document(_locked("user"), "x.pdf")


def test_a_file_that_opens_without_a_password_is_read() -> None:
    assert pdf_document(_locked(""), "x.pdf").text == "a secret"


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
        pdf_document(bomb, "x.pdf")


def test_a_file_that_takes_too_much_memory_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "_MEMORY_BYTES", 2**27)
    with pytest.raises(InputError, match="x.pdf is a damaged PDF file: it takes more memory"):
        pdf_document(_unpacks_to(b"( " * 30_000_000), "x.pdf")


@pytest.mark.parametrize("content", [b"[" * 20_000, b"<<" * 20_000])
def test_odd_contents_are_a_sentence(content: bytes) -> None:
    with pytest.raises(InputError, match="x.pdf (is a damaged PDF file|holds no text)"):
        pdf_document(_unpacks_to(content), "x.pdf")


@settings(max_examples=8)  # each starts a process; tests/fuzz tries more
@given(st.data())
def test_a_damaged_file_is_a_sentence_or_text(data: st.DataObject) -> None:
    whole = pdf_bytes("one", "two")
    start = data.draw(st.integers(0, len(whole) - 1))
    length = data.draw(st.integers(1, 80))
    damaged = whole[:start] + data.draw(st.binary(max_size=40)) + whole[start + length :]
    try:
        assert pdf_document(damaged, "x.pdf").text
    except InputError as error:
        assert str(error).startswith("x.pdf ")
