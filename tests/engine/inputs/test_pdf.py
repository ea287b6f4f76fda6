"""PDF files: their text, and a sentence where there is none."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

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
