"""The chat as a process on a real terminal, with a fake model: keys in, screen out."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.terminals import Terminal

PROGRAM = "from tests.cli import talker; talker.main()"


def started(home: Path, **changes: Any) -> Terminal:
    """The program, once it can be typed into."""
    running = Terminal(["-c", PROGRAM], home=home, **changes)
    running.wait_for("Ctrl-D leaves" if changes.get("columns", 80) > 40 else ">")
    running.settle()
    return running


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    running = started(tmp_path)
    yield running
    running.close()


def test_a_conversation(terminal: Terminal) -> None:
    """Keys at each stage of one process, which is what takes the time."""
    # While the model loads: what is sent waits, and Ctrl-C gives it back
    terminal.wait_for("loading")
    terminal.press("say hello\r")
    terminal.wait_for("waiting: say hello")
    terminal.press("\x03")
    terminal.wait_until_gone("waiting:")
    assert "> say hello" in terminal.shown
    terminal.press("\r")
    terminal.wait_for("waiting: say hello")
    terminal.wait_for("4-bit KV")
    terminal.wait_for("\nhello\n")

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


def test_what_is_typed_before_the_prompt_is_there(tmp_path: Path) -> None:
    running = Terminal(["-c", PROGRAM], home=tmp_path)
    try:
        running.press("say one\rsay two\rand th\x1b[D\x1b[Do")
        running.wait_for("> say two\nhello\n")
        running.settle()
        assert running.shown.splitlines()[-2] == "> and oth"
        assert "\nrqchat 0" in running.text
        running.press("\x15\x04")
        assert running.leave() == 0
    finally:
        running.close()


def test_ctrl_d_leaves_in_the_middle_of_an_answer(terminal: Terminal) -> None:
    terminal.press("count\r")
    terminal.wait_for("word3 ")
    terminal.press("\x04")
    assert terminal.leave() == 0


def test_a_signal_stops_the_answer_as_ctrl_c_does(terminal: Terminal) -> None:
    terminal.press("count\r")
    terminal.wait_for("word3 ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("[interrupted: the answer is not complete]")
    terminal.press("\x04")
    assert terminal.leave() == 0


def test_control_sequences_of_the_model_stay_text(terminal: Terminal) -> None:
    terminal.press("misbehave\r")
    terminal.wait_for("after")
    terminal.press("\x04")
    assert terminal.leave() == 0
    assert not re.search(r"\x1b\]|\x1b\[2J|\x07|\x1bP|\x9b", terminal.raw)
    assert "]0;owned" in terminal.text


@pytest.mark.parametrize("columns", [20, 400])
def test_any_width(tmp_path: Path, columns: int) -> None:
    running = started(tmp_path, columns=columns)
    try:
        running.press("many scripts\r")
        while "the end" not in running.raw:
            assert running.read(15)
        running.press("\x04")
        assert running.leave() == 0
        shown = re.sub(r"\s", "", running.raw)  # pyte loses what follows a joined emoji
        for text in ("日本語のテキスト", "👩‍👩‍👧", "שלוםעולם", "e\u0301", "✅|theend"):
            assert text in shown
    finally:
        running.close()


def test_a_dumb_terminal_gets_plain_text(tmp_path: Path) -> None:
    running = started(tmp_path, TERM="dumb")
    try:
        running.press("markdown\r")
        running.wait_for("**bold**")
        running.press("count\r")
        running.wait_for("word3 ")
        running.process.send_signal(signal.SIGINT)
        running.wait_for("[interrupted: the answer is not complete]")
        running.press("/exit\r")
        assert running.leave() == 0
        assert "\x1b" not in running.raw
    finally:
        running.close()


def test_without_colours_bold_is_left(tmp_path: Path) -> None:
    running = started(tmp_path, NO_COLOR="1")
    try:
        running.press("markdown\r")
        running.wait_for("the end")
        running.press("\x04")
        assert running.leave() == 0
        assert not re.search(r"\x1b\[(?:\d+;)*(?:3|4|9|10)\d(?:;\d+)*m", running.raw)
    finally:
        running.close()
