"""Documents are read whole or refused with the reason."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqchat.engine.inputs.documents import decode_document, read_document
from rqchat.errors import InputError


@given(st.text(min_size=1).filter(lambda t: t.strip() and "\0" not in t and t.isprintable()))
def test_text_comes_back_whole(text: str) -> None:
    assert decode_document(text.encode(), "x").text == text


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + "Grüße".encode(),
        codecs.BOM_UTF16_LE + "Grüße".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "Grüße".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "Grüße".encode("utf-32-le"),
    ],
)
def test_byte_order_marks_are_understood_and_dropped(data: bytes) -> None:
    assert decode_document(data, "x").text == "Grüße"


def test_a_file_keeps_its_name_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\n")

    document = read_document(path)

    assert (document.name, document.text) == (str(path), "one\r\ntwo\n")


def test_invalid_utf8_names_the_byte_and_the_remedy() -> None:
    with pytest.raises(InputError, match=r"notes\.txt.*byte 3.*--encoding"):
        decode_document(b"abc\xff\xfe", "notes.txt")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (codecs.BOM_UTF8, "empty"),
        (b"abc\0def", "NUL byte at offset 3"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "binary"),
        (b"\x01\x02\x03\x04text", "control characters"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        decode_document(data, "x")


def test_coloured_terminal_logs_are_text() -> None:
    assert decode_document(b"\x1b[31mred\x1b[0m\n", "log").text.startswith("\x1b")


def test_a_missing_file_a_folder_and_an_unreadable_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_document(tmp_path / "none.txt")
    with pytest.raises(InputError, match="is a folder"):
        read_document(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_document("/proc/self/mem")
    with pytest.raises(InputError, match="cannot be read"):
        read_document("a\0b")
