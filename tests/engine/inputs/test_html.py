"""HTML as a person reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqchat.engine.inputs.html import html_charset, html_text, looks_like_html
from tests.growth import growth

PAGE = """<!DOCTYPE html>
<html><head><title>Whales &amp; ships</title><style>p { color: red }</style>
<script>if (a < b) document.write("<p>no</p>");</script></head>
<body><nav><a href="/">Home</a></nav>
<h2>On   <em>whales</em></h2>
<p>They are
   large.<br>Very.</p><p>Second.</p>
<ul><li>blue</li><li>grey</li></ul>
<table><tr><th>name</th><th>tons</th></tr><tr><td>blue</td><td>150</td></tr></table>
<pre>x = 1
  y = 2</pre>
<noscript>turn it on</noscript></body></html>
"""


def test_a_page() -> None:
    assert html_text(PAGE) == (
        "Whales & ships\n\nHome\n\n## On whales\n\nThey are large.\nVery.\n\nSecond.\n\n"
        "- blue\n- grey\n\nname | tons\nblue | 150\n\nx = 1\n  y = 2\n"
    )


@given(st.text(alphabet="<>/ab &;\"'!-= \n", max_size=60))
def test_any_tag_soup_is_read(soup: str) -> None:
    assert html_text(soup).endswith("\n")


@given(st.lists(st.from_regex(r"[a-z]{1,9}", fullmatch=True), min_size=1))
def test_no_word_is_lost(words: list[str]) -> None:
    page = "<div>" + "</p><p>".join(f"<b>{word}</b>" for word in words)
    assert html_text(page).split() == words


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"<!DOCTYPE html><p>x", True),
        (b"\xef\xbb\xbf\n <HTML lang=en>", True),
        (b"<!-- saved --><html>", True),
        (b'<?xml version="1.0"?>\n<html xmlns="x">', True),
        (b"<p>a part of a page", False),
        (b"how does <html> work?", False),
        (b"<htmlx>", False),
    ],
)
def test_what_looks_like_a_page(data: bytes, expected: bool) -> None:
    assert looks_like_html(data) is expected


def test_a_page_names_its_encoding() -> None:
    assert html_charset(b'<html><meta charset="ISO-8859-1">') == "ISO-8859-1"
    old = b'<meta http-equiv="Content-Type" content="text/html; charset=cp1252">'
    assert html_charset(old) == "cp1252"
    assert html_charset(b"<html><p>charset=none") is None


@pytest.mark.parametrize(
    "piece",
    [
        *("<a ", '<a href="', "<a href='x", "<!--", "<!", "<?", "</", "</a ", "<![CDATA[", "<"),
        *("<script>", "<title></title", "<a =", "<!-- -", "&#", "<pre></p>", "<a b=\"'>"),
    ],
)
def test_time_grows_with_the_length_alone(piece: str) -> None:
    assert growth(lambda size: piece * (size // len(piece)), html_text, 40_000) < 3


def test_elements_that_are_not_shown_close_in_linear_time() -> None:
    assert growth(lambda n: "<svg>" * n + "</math></object>" * n, html_text, 5_000) < 3


def test_comments_before_a_page_are_looked_through_once() -> None:
    def look(page: bytes) -> None:
        for _ in range(500):
            looks_like_html(page)

    assert growth(lambda count: b"<!---->" * count, look, 8) < 3


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>hi <![x y</p>bye", "hi bye\n"),
        ("<p>a < b <c", "a < b <c\n"),
        ("<p>a<!-- never closed <b>", "a<!-- never closed <b>\n"),
        ("x&#" + "9" * 5000 + ";y&#xfffffffff;z", "x\ufffdy\ufffdz\n"),
        ("<p a='>' b=\">\">x<br/>y<svg/>z</p>", "x\nyz\n"),
        ("<title>a &amp; <b></title><textarea><p>x</textarea>", "a & <b>\n\n<p>x\n"),
        ("<script>a</script >b<style>x</p>", "b\n"),
        ("a<!-->b<!--->c<!---->d", "abcd\n"),
    ],
)
def test_markup_as_browsers_take_it(page: str, text: str) -> None:
    assert html_text(page) == text
