"""Where a saved conversation ended: drawn as it was when it came, and never cut without a word."""

from __future__ import annotations

import dataclasses
import re
import sys

import pytest

from rqchat.engine.conversation import Message
from rqchat.engine.conversations.records import SessionRecord
from rqchat.engine.events import TextDelta
from rqchat.ui.console import Screen
from rqchat.ui.markdown import InChat
from rqchat.ui.resumed_chat import show_resumed
from rqchat.ui.stream import AnswerView
from tests.ui.test_markdown import SOURCE
from tests.ui.test_screen import Terminal, two_terminals

SESSION = SessionRecord("k3f9q2ab", None, "Gate", "chat", "pocket", None, None, 0.0, 0.0, 2)
HEAD = "going on with Gate (k3f9q2ab, 2 turns)\n"
FOLDED = "[the end of a long answer; rqchat sessions show k3f9q2ab has all of it]"


def resumed(
    monkeypatch: pytest.MonkeyPatch,
    question: str,
    answer: str,
    *,
    rows: int = 60,
    interrupted: bool = False,
) -> str:
    """What a terminal of 79 columns is told."""
    monkeypatch.setenv("LINES", str(rows))
    screen = Screen(width=79)
    last = [Message("user", question), Message("assistant", answer, interrupted=interrupted)]
    show_resumed(screen, SESSION, last)
    assert isinstance(sys.stderr, Terminal)
    return sys.stderr.getvalue()


def plain(said: str) -> str:
    """Without bold and the like, and without the rest of the question's band."""
    return re.sub(r" *\n", "\n", re.sub(r"\x1b\[\d*m", "", said))


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_an_answer_looks_as_it_did_when_it_came(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    out, _ = two_terminals(monkeypatch)
    monkeypatch.delenv("NO_COLOR")  # the colours of code are drawn again, too
    monkeypatch.setenv("TERM", term)
    view = AnswerView(Screen(width=79), chat=InChat())
    for character in SOURCE:
        view.show(TextDelta(character))
    view.close()
    came = re.sub(r"\r\x1b\[K", "", out.getvalue())
    assert came in resumed(monkeypatch, "Why?", SOURCE)
    assert ("\x1b[" in came, "Some **bold**" in came) == (term != "dumb", term == "dumb")


def test_what_is_folded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    two_terminals(monkeypatch)
    question = "\n".join(f"line {number}" for number in range(30))
    rows = [f"Row {number}." for number in range(2_000)]
    said = plain(resumed(monkeypatch, question, "\n".join(rows), rows=20)).splitlines()
    assert said[:10] == [
        HEAD.strip(), "", "> line 0", *(f"line {n}" for n in range(1, 5)), "[and 25 more lines]",
        "", FOLDED,
    ]  # fmt: skip
    shown = [line.strip() for line in said[10:-1]]
    assert shown == rows[-len(shown) :]
    assert 10 <= len(shown) < 20


@pytest.mark.parametrize("answer", ["word " * 2_000, "", "x" * 5_000, "日" * 3_000])
def test_one_line_is_never_left_out(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    two_terminals(monkeypatch)
    said = plain(resumed(monkeypatch, "Why?", answer, rows=20, interrupted=True))
    assert said.startswith(f"{HEAD}\n> Why?\n")
    assert said.endswith("[interrupted: the answer is not complete]\n\n")
    assert (FOLDED in said) == bool(answer)


def test_nothing_that_a_terminal_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = two_terminals(monkeypatch)
    named = dataclasses.replace(SESSION, name="a\x1b]0;owned\x07")
    show_resumed(
        Screen(width=79), named, [Message("user", "\x1b[2J"), Message("assistant", "\x9b")]
    )
    said = plain(err.getvalue())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", said)
