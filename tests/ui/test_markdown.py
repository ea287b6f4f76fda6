"""Markdown that streams: cut anywhere it is drawn the same, once, and nothing of it is lost."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqchat.ui.code_lines import CodeLines
from rqchat.ui.console import Drawing, Screen, Stream
from rqchat.ui.markdown import InChat, MarkdownAnswer
from rqchat.ui.markdown_blocks import Block, BlockSplitter, code_blocks
from tests.growth import growth
from tests.ui.test_screen import Terminal

SOURCE = """# Title

Some **bold** text with vector<int>, `code` and a [link](http://x.y).
A second line.

1. one
   ```sh
   ls   -l
   ```
2. two
   - inner

~~~python
text = \"\"\"
def not_code(): \"\"\"

~~~
> quoted

| a | b |
|---|---|
| 1 | 2 |

the end"""
DRAWN = """Title

Some bold text with vector<int>, code and a link (http://x.y).
A second line.

 1 one

─────────────────────────────────────────────────────────────────── sh
ls   -l
──────────────────────────────────────────────────────────────────────

 2 two
    • inner

─────────────────────────────────────────────────────────────── python
text = \"\"\"
def not_code(): \"\"\"

──────────────────────────────────────────────────────────────────────

▌ quoted

 a  b
 ────
 1  2

the end
"""


class Above:
    """A prompt to write above."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.drawn: list[str] = []

    def put(self, stream: Stream, text: str | Drawing) -> None:
        self.written.append(str(text))

    def draw(self, text: str, style: str, mark: str = "") -> None:
        self.drawn.append(text)


def blocks_of(pieces: list[str]) -> list[Block]:
    splitter = BlockSplitter()
    return [block for piece in pieces for block in splitter.feed(piece)] + splitter.close()


@given(st.lists(st.integers(0, len(SOURCE)), max_size=20))
def test_where_the_pieces_end_makes_no_difference(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(SOURCE)]
    pieces: list[str] = [SOURCE[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    assert blocks_of(pieces) == blocks_of([SOURCE])


@given(st.text(alphabet="ab #-*`~\n1.>|", max_size=60))
def test_no_word_is_lost(source: str) -> None:
    kept = "".join(block.text for block in blocks_of([source]) if block.kind != "blank")
    info = "".join(re.findall(r"^\s*(?:`{3,}|~{3,})([^`\n]*)$", source, re.MULTILINE))
    for letter in "ab":
        assert kept.count(letter) >= source.count(letter) - info.count(letter)


def draw(
    monkeypatch: pytest.MonkeyPatch, source: str, *, begun: str = "", chat: InChat | None = None
) -> Above:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    screen, above = Screen(width=70), Above()
    screen.live = above
    answer = MarkdownAnswer(screen, begun=begun, chat=chat)
    for character in source:
        answer.feed(character)
    answer.close()
    return above


def plain(written: list[str]) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", "".join(written))


def test_every_block_is_drawn_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain(draw(monkeypatch, SOURCE).written) == DRAWN


def test_a_long_line_of_code_stays_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print(" + ", ".join(str(number) for number in range(50)) + ")"
    _, line, _ = plain(draw(monkeypatch, f"```python\n{code}\n```").written).splitlines()
    assert line == code


def test_only_the_open_block_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    above = draw(monkeypatch, "first paragraph\n\nsecond")
    assert not any("first" in text and "second" in text for text in above.drawn)
    assert above.drawn[-1] == ""


def test_a_continued_answer_begins_with_its_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = "first\n\n```python\ntext = '''\nand "
    above = draw(monkeypatch, "more'''\n```\nthe end", begun=begun)
    assert plain(above.written) == f"and more'''\n{'─' * 70}\n\nthe end\n"


def test_in_a_chat_an_answer_has_a_mark_and_its_code_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = "word " * 20 + "\n\n```sh\nls\n```\n\n```\n```\n\nthen\n\n~~~\ncd"
    lines = plain(draw(monkeypatch, source, chat=InChat(code_blocks=2)).written).splitlines()
    assert lines[0] == "● " + " ".join(["word"] * 13)
    assert lines[1] == "  " + " ".join(["word"] * 7)
    assert [line.strip("─ ") for line in lines[2:]] == [
        *("", "sh · /copy 3", "ls", "", "", "then", "", "/copy 4", "cd", "")
    ]
    assert "cd" in lines  # code begins where the line begins, so that it can be copied
    assert code_blocks(source) == ["ls\n", "cd\n"]


@pytest.mark.parametrize(
    ("begin", "line"),
    [
        ("```python\n", "x\n"),
        ('```python\ntext = """\n', "x\n"),
        ("```c\n/*\n", "x\n"),
        ("```json\n", '"a": "b",\n'),
        ("", "word "),
    ],
)
def test_drawing_takes_time_that_grows_with_the_length(
    monkeypatch: pytest.MonkeyPatch, begin: str, line: str
) -> None:
    def run(lines: int) -> None:
        draw(monkeypatch, begin + lines * line)

    run(20)  # what is loaded once
    assert growth(int, run, 200 if begin else 6_000) < 3


def test_a_long_string_keeps_its_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    code = CodeLines("python", "ansi_dark")
    lines = ["import os", 'TEXT = "a"', 'LONG = """', *["if it is text"] * 99, '"""', "if it:"]
    drawn = [code.add(line) for line in lines]
    colours = [{str(span.style) for span in text.spans} for text in drawn]
    assert colours[50] == colours[3] != colours[-1]
    assert colours[-1] == {
        str(span.style) for span in CodeLines("python", "ansi_dark").add("if it:").spans
    }
    assert [text.plain for text in drawn] == lines


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
def test_no_control_sequence_reaches_the_terminal(text: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        above = draw(monkeypatch, text + "\x1b]0;owned\x07\x9b2J\x1b[2J")
    shown = re.sub(r"\x1b\[[\d;]*m", "", "".join(above.written + above.drawn))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
