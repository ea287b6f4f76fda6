"""The text of HTML, as a person would read it. No torch.

Tags are cut by the rules of the HTML standard (13.2.5), in one pass over the page. Python's own
parser, in the versions that we support, takes quadratic time for tags and comments that do not
end, and fails on some declarations.
"""

from __future__ import annotations

import re
from collections import Counter
from html import unescape

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
# Possessive: comments could be cut up in exponentially many ways
_START = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(?:<!--(?>.*?-->)\s*)*+<(!doctype\s+html|html)\b", re.I | re.S
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.I)
_MARKUP = re.compile("<(?=[a-z/!?])", re.I)  # any other "<" is text
_TAG_NAME = re.compile(r"/?([a-z][^\s/>]*)", re.I)
# What is left of a tag after its name, with its end; quotes may hold a ">"
_TAG_REST = re.compile(r"""(?:[^>"'=]|=\s*+(?:"[^"]*+"|'[^']*+')?+|["'])*+>""")
_RAW_TEXT = frozenset("script style xmp iframe textarea title".split())
_LONG_NUMBER = re.compile(r"&#(?:[xX][0-9a-fA-F]{7,}|[0-9]{8,});?")  # no character has one
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
    _cut(source, reader)
    lines = [line.rstrip() for line in "".join(reader.pieces).splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _cut(source: str, reader: _Reader) -> None:
    """Hands the tags and texts of `source` to `reader`, in time that grows with its length alone.

    What begins a tag or comment that never ends is text to the end of the page: browsers would
    drop it, and a person would miss it.
    """
    start = 0
    while found := _MARKUP.search(source, start):
        reader.text(source[start : found.start()])
        start = found.start()
        end = _end_of_markup(source, start, reader)
        if end is None:
            break
        start = end
    reader.text(source[start:])


def _end_of_markup(source: str, opened: int, reader: _Reader) -> int | None:
    """Where what begins with the "<" at `opened` is over; None where it never is."""
    name = _TAG_NAME.match(source, opened + 1)
    if name is None:
        return _end_of_other(source, opened)
    rest = _TAG_REST.match(source, name.end())
    if rest is None:
        return None
    tag, end = name[1].lower(), rest.end()
    if source[opened + 1] == "/":
        reader.end_tag(tag)
        return end
    reader.start_tag(tag)
    if source[end - 2] == "/":  # as XHTML writes elements without content
        reader.end_tag(tag)
        return end
    if tag not in _RAW_TEXT:
        return end
    closing = re.compile(rf"</{re.escape(tag)}(?=[\s/>])", re.I).search(source, end)
    raw_end = closing.start() if closing else len(source)
    reader.text(source[end:raw_end])
    return raw_end


def _end_of_other(source: str, opened: int) -> int | None:
    """As `_end_of_markup`, for comments and declarations."""
    # The standard takes these two for whole comments.
    if source.startswith(("<!-->", "<!--->"), opened):
        return source.index(">", opened) + 1
    closing = "-->" if source.startswith("<!--", opened) else ">"
    found = source.find(closing, opened)
    return found + len(closing) if found >= 0 else None


class _Reader:
    """Collects the text in `pieces`."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._unseen: list[str] = []  # open elements that are not shown, the innermost last
        self._unseen_of = Counter[str]()  # how many of each are among them
        self._verbatim = 0

    def start_tag(self, tag: str) -> None:
        """An element begins."""
        if tag in _UNSEEN:
            self._unseen.append(tag)
            self._unseen_of[tag] += 1
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

    def end_tag(self, tag: str) -> None:
        """An element ends, and with it what is still open inside."""
        if self._unseen_of[tag]:
            ended = ""
            while ended != tag:
                ended = self._unseen.pop()
                self._unseen_of[ended] -= 1
        elif not self._unseen and tag in _BLOCKS:
            self._verbatim -= tag == "pre" and self._verbatim > 0
            self._break(tag)

    def text(self, data: str) -> None:
        """What stands between tags, its character references not yet resolved."""
        if self._unseen or not data:
            return
        # Python refuses to read integers of thousands of digits
        data = unescape(_LONG_NUMBER.sub("\ufffd", data))
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
