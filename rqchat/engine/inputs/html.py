"""The text of HTML, as a person would read it. No torch."""

from __future__ import annotations

import re
from html.parser import HTMLParser

__all__ = ["html_charset", "html_text", "looks_like_html"]

_UNSEEN = frozenset("script style template noscript svg math iframe object select".split())
_BLOCKS = frozenset(
    "address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption"
    " figure footer form h1 h2 h3 h4 h5 h6 head header hr html legend li main nav ol option p pre"
    " section summary table tbody tfoot thead title tr ul".split()
)
_PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 ul ol dl table pre blockquote title".split())
_CELLS = frozenset(("td", "th"))
_HEADING = re.compile("h([1-6])")
_START = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.I | re.S)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)
_LOOKED_AT_BYTES = 1024  # where a page has to name its encoding (HTML standard, 13.2.3.2)


def looks_like_html(data: bytes) -> bool:
    """Whether `data` begins as a whole HTML page does."""
    return _START.match(data.removeprefix(b"\xef\xbb\xbf")[:_LOOKED_AT_BYTES]) is not None


def html_charset(data: bytes) -> str | None:
    """The encoding that the page itself names."""
    found = _CHARSET.search(data[:_LOOKED_AT_BYTES])
    return found[1].decode("ascii") if found else None


def html_text(source: str) -> str:
    """Headings as `#`, list items as `-`, cells between `|`; scripts and styles left out."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    lines = [line.rstrip() for line in "".join(reader.pieces).splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


class _Reader(HTMLParser):
    """Collects the text in `pieces`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen: list[str] = []
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        if self._unseen:
            return
        if tag in _BLOCKS:
            self._break(tag)
        if tag == "br":
            self.pieces.append("\n")
        elif tag == "li":
            self.pieces.append("- ")
        elif heading := _HEADING.fullmatch(tag):
            self.pieces.append("#" * int(heading[1]) + " ")
        elif tag == "pre":
            self._verbatim += 1
        elif tag in _CELLS and not self._at_line_start():
            self.pieces.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif not self._unseen and tag in _BLOCKS:
            self._verbatim -= tag == "pre" and self._verbatim > 0
            self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if not self._verbatim:
            data = re.sub(r"\s+", " ", data)
            if self._at_line_start() or self.pieces[-1].endswith(" "):
                data = data.lstrip(" ")
        if data:
            self.pieces.append(data)

    def _break(self, tag: str) -> None:
        if not self._at_line_start():
            self.pieces.append("\n")
        if tag in _PARAGRAPHS:
            self.pieces.append("\n")

    def _at_line_start(self) -> bool:
        return not self.pieces or self.pieces[-1].endswith("\n")
