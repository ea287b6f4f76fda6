"""Safe text and readable numbers."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from rqchat.engine.sizes import format_bytes
from rqchat.ui.text import format_seconds, one_row, safe_line, safe_text, wrapped


@given(st.text(st.characters(exclude_categories=())))
def test_no_control_character_is_left(text: str) -> None:
    safe = safe_text(text)
    assert all(char in "\n\t" or unicodedata.category(char) != "Cc" for char in safe)
    safe.encode("utf-8")


@given(st.text(st.characters(exclude_categories=["C"])))
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert safe_text(text) == text


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_pieces_of_a_stream_give_the_same_as_the_whole(pieces: list[str]) -> None:
    assert "".join(map(safe_text, pieces)) == safe_text("".join(pieces))


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b]0;title\x07a", "]0;titlea"),
        ("a\x9b31mb", "a31mb"),
        ("user\u202egnp.exe", "usergnp.exe"),
        ("a\u2066b\u2069", "ab"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("\ud83d", "\ufffd"),
        (
            "\u05e9\u05dc\u05d5\u05dd \u200f\u4e2d\U0001f600",
            "\u05e9\u05dc\u05d5\u05dd \u200f\u4e2d\U0001f600",
        ),
    ],
)
def test_what_terminals_obey_is_removed(text: str, safe: str) -> None:
    assert safe_text(text) == safe


def test_safe_line_is_one_line() -> None:
    assert safe_line(" a\n\tb\x1b ") == "a b"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 KiB"), (84_000, "82 KiB"), (512 * 2**20, "512 MiB"), (24 * 2**30, "24.0 GiB")],
)
def test_bytes(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3720, "1 h 02 min")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "columns", "row"),
    [
        ("8,880 of 32,768", 15, "8,880 of 32,768"),
        ("8,880 of 32,768", 14, "8,880 of 32,7…"),
        ("日本語", 4, "日 …"),  # half a character is a blank
    ],
)
def test_what_does_not_fit_a_row_is_marked(text: str, columns: int, row: str) -> None:
    assert one_row(text, columns) == row


@given(st.text(), st.integers(1, 40))
def test_lines_break_between_words_alone(text: str, columns: int) -> None:
    rows = wrapped(text, columns).split("\n")
    assert " ".join(rows).split() == text.split()
    assert all(cell_len(row) <= columns or " " not in row for row in rows)
    for upper, lower in itertools.pairwise(rows):
        assert cell_len(f"{upper} {lower.split(' ')[0]}") > columns
