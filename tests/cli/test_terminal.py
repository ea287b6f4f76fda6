"""The chat as a process on a real terminal, with a fake model: keys in, screen out."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_store_processes import saved
from tests.terminals import Terminal

PROGRAM = "from tests.cli import talker; talker.main()"


@contextmanager
def program(home: Path, **changes: Any) -> Iterator[Terminal]:
    """The program, ended with the test. Each start takes seconds, so a test does much with one."""
    running = Terminal(["-c", PROGRAM], home=home, **changes)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def piped(tmp_path: Path) -> Path:
    """A document to be piped in."""
    path = tmp_path / "document.txt"
    path.write_text("It rains in the town. " * 30)
    return path


def test_a_conversation(tmp_path: Path) -> None:
    with program(tmp_path, LOAD_S="1.5") as terminal:
        a_conversation(terminal)


def a_conversation(terminal: Terminal) -> None:
    """Keys at each stage: while it loads, reads and answers."""
    terminal.wait_for("Ctrl-D leaves")
    terminal.settle()

    # While the model loads, a line that was entered waits, and Ctrl-C gives it back
    terminal.wait_for("loading")
    terminal.press("say hello\r")
    terminal.wait_for("waiting: say hello")
    terminal.press("\x03")
    terminal.wait_until_gone("waiting:")
    assert "> say hello" in terminal.shown
    terminal.press("\r")
    terminal.wait_for("waiting: say hello")
    terminal.wait_for("4-bit KV")
    terminal.wait_for("\n● hello\n")

    # While it reads
    terminal.press("read a long book\r")
    terminal.wait_for("reading")
    terminal.press("\x03")
    terminal.wait_until_gone("reading")
    terminal.wait_for("> read a long book", times=2)  # nothing came, so the question came back
    terminal.press("\x03")

    # While it answers: typing shows, Enter waits, Ctrl-C stops the answer alone
    terminal.press("count\r")
    terminal.wait_for("word3 ")
    terminal.press("/stats\rnext")
    terminal.wait_for("waiting: /stats")
    terminal.wait_for("> next")
    terminal.press("\x03")
    terminal.wait_for("[interrupted: the answer is not complete]")
    terminal.wait_for("stopped by interrupted")
    terminal.settle()
    assert terminal.shown.splitlines()[-2] == "> next"
    assert "^C" not in terminal.raw

    # Another size in the middle of an answer
    terminal.press("\x15count\r")
    terminal.wait_for("word3 ", times=2)
    terminal.resize(60, 20)
    terminal.press("\x1b")  # Escape stops it too
    terminal.wait_for("[interrupted: the answer is not complete]", times=2)
    terminal.settle()
    assert terminal.shown.splitlines()[-1].startswith("pocket | bf16 | 4-bit KV")

    terminal.press("/continue\r")
    terminal.wait_for("went on")
    terminal.settle()  # until keys are read again, two Ctrl-C at once are one signal
    terminal.press("\x03\x03")
    assert terminal.leave() == 0


def test_what_is_typed_before_the_prompt_and_what_ends_an_answer(tmp_path: Path) -> None:
    with program(tmp_path) as terminal:
        terminal.press("say one\rsay two\rand th\x1b[D\x1b[Do")
        terminal.wait_for("> say two\n\n● hello\n")
        terminal.settle()
        assert terminal.shown.splitlines()[-2] == "> and oth"
        assert "\nrqchat 0" in terminal.text

        # Control sequences of the model stay text
        terminal.press("\x15misbehave\r")
        terminal.wait_for("first word after", times=3)
        assert not re.search(
            r"\x1b[\]cP]|\x1b\[2J|\x1b\[38;5;201m|[\x07\x9b\u202a-\u202e\u2066-\u2069]",
            terminal.raw,
        )
        assert "]0;owned" in terminal.text

        # Bytes that are no text, in a line and so in the history
        terminal.press("say caf\udce9\r")
        terminal.wait_for("● hello", times=3)

        # A signal stops the answer as Ctrl-C does
        terminal.press("count\r")
        terminal.wait_for("word3 ")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("[interrupted: the answer is not complete]")

        # Ctrl-D leaves in the middle of an answer
        terminal.press("count\r")
        terminal.wait_for("word3 ", times=2)
        terminal.press("\x04")
        assert terminal.leave() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_keeps_what_had_come(tmp_path: Path, number: signal.Signals) -> None:
    with program(tmp_path) as terminal:
        terminal.wait_for("4-bit KV")
        terminal.press("count\r")
        terminal.wait_for("word3 ")
        terminal.process.send_signal(number)
        assert terminal.leave() == 128 + number
        (turn,) = saved(tmp_path / "data")
        assert (turn.state, turn.answer.split()[:4]) == (
            "interrupted",
            ["word0", "word1", "word2", "word3"],
        )
        assert "goes on from here" in terminal.text


@pytest.mark.parametrize("columns", [20, 400])
def test_any_width_without_colours(tmp_path: Path, piped: Path, columns: int) -> None:
    """Keys come from the terminal, although standard input is a document."""
    with program(tmp_path, columns=columns, stdin=piped, NO_COLOR="1") as terminal:
        terminal.press("many scripts\r")
        while "the end" not in terminal.raw:
            assert terminal.read(60)
        shown = re.sub(r"\s", "", terminal.raw)  # pyte loses what follows a joined emoji
        for text in ("日本語のテキスト", "👩‍👩‍👧", "שלוםעולם", "e\u0301", "✅|theend"):
            assert text in shown
        assert "[File1:standardinput,150tokens]" in re.sub(r"\s", "", terminal.text)
        terminal.press("markdown\r")
        terminal.wait_for("return 1")
        terminal.wait_for("the end")
        terminal.press("\x04")
        assert terminal.leave() == 0
        assert not re.search(r"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m", terminal.raw)


def test_a_dumb_terminal_gets_plain_text(tmp_path: Path, piped: Path) -> None:
    with program(tmp_path, stdin=piped, TERM="dumb") as terminal:
        terminal.wait_for("Ctrl-D leaves")
        terminal.settle()
        terminal.press("markdown\r")
        terminal.wait_for("[File 1: standard input, ")
        terminal.wait_for("**bold**")
        terminal.press("count\r")
        terminal.wait_for("word3 ")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("[interrupted: the answer is not complete]")
        terminal.press("/exit\r")
        assert terminal.leave() == 0
        assert "\x1b" not in terminal.raw
