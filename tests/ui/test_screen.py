"""The engine's events on both streams, to the character."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import termios

import pytest

from rqchat.engine.events import (
    Done,
    Event,
    LoadProgress,
    MemoryUse,
    Notice,
    PrefillProgress,
    StopReason,
    TextDelta,
    ThoughtDelta,
    Timing,
    TokenCounts,
)
from rqchat.ui.console import ReaderGoneError, Screen
from rqchat.ui.editor.typeahead import keys_kept
from rqchat.ui.progress import load_status, prefill_status
from rqchat.ui.stream import AnswerView


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def two_terminals(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, io.StringIO]:
    """Standard output and error become terminals without colours.

    Called in the test's body, because pytest puts its own streams back after the fixtures.
    """
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def done(reason: StopReason = "eos") -> Done:
    timing = Timing(1.0, 2.0, 0.5, 500.0, 20.0)
    return Done(reason, 7, TokenCounts(1000, 264, 0, 10), timing, MemoryUse(1, 2))


def show(*events: Event, screen: Screen | None = None) -> AnswerView:
    view = AnswerView(screen or Screen(width=59), markdown=False)
    for event in events:
        view.show(event)
    return view


def test_progress_is_drawn_over_and_gone_before_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = two_terminals(monkeypatch)
    show(LoadProgress("weights", 1, 2), PrefillProgress(256, 1024, 0, 0.5), TextDelta("Hi"), done())
    out, err = streams
    assert out.getvalue() == "Hi\n"
    assert err.getvalue() == (
        "\r\x1b[2mweights 50 % of 0 KiB\x1b[0m\x1b[K"
        "\r\x1b[2mreading ████░░░░░░░░░░ 25 % · 512 tokens/s · 1.5 s left\x1b[0m\x1b[K"
        "\r\x1b[K"
    )


@pytest.mark.parametrize(("cached", "said"), [(8850, True), (40, False)])
def test_a_long_prompt_that_was_read_before_is_told_once(
    monkeypatch: pytest.MonkeyPatch, cached: int, said: bool
) -> None:
    _, err = two_terminals(monkeypatch)
    view = AnswerView(Screen(), recalls=True)
    for done_tokens in (cached, 8873):
        view.show(PrefillProgress(done_tokens, 8873, cached, 0.1))
    assert err.getvalue().count("8,850 of 8,873 tokens were read before\x1b[0m\n") == said


def test_what_was_read_and_how_fast_it_went_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = two_terminals(monkeypatch)
    view = AnswerView(Screen(width=99), markdown=False, summary=True)
    for event in (PrefillProgress(2048, 2048, 512, 2.0), TextDelta("Hi"), done()):
        view.show(event)
    assert [line for line in _plain(err.getvalue()).splitlines() if line][-2:] == [
        "read 1,536 tokens in 2.0 s · 768 tokens/s",
        "10 tokens · 20 tokens/s · first word after 2.0 s",
    ]


def _plain(said: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m|[^\n]*\r|\x1b\[K", "", said)


@pytest.mark.parametrize("quiet_by", ["dumb", "quiet", "pipe"])
def test_no_progress_where_it_cannot_be_drawn_over(
    monkeypatch: pytest.MonkeyPatch, quiet_by: str
) -> None:
    streams = two_terminals(monkeypatch)
    if quiet_by == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    err = streams[1]
    if quiet_by == "pipe":
        monkeypatch.setattr(sys, "stderr", err := io.StringIO())
    screen = Screen(quiet=quiet_by == "quiet")
    show(PrefillProgress(256, 1024, 0, 0.5), TextDelta("Hi\n"), screen=screen)
    assert streams[0].getvalue() == "Hi\n"
    assert err.getvalue() == ""


def test_thoughts_and_notices_stay_off_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = two_terminals(monkeypatch)
    view = show(Notice("[x] a\x1b note"), ThoughtDelta("hm"), ThoughtDelta("m"), TextDelta("Yes"))
    view.close()
    view.close()
    assert streams[0].getvalue() == "Yes\n"
    assert streams[1].getvalue() == (
        "\x1b[2m[x] a note\x1b[0m\n\x1b[2;3mhm\x1b[0m\x1b[2;3mm\x1b[0m\n\n"
    )
    assert view.text == "Yes"


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        ("eos", ""),
        ("length", "[stopped at the token limit: the answer is not complete]\n"),
        ("interrupted", "[interrupted: the answer is not complete]\n"),
    ],
)
def test_an_incomplete_answer_is_marked(
    monkeypatch: pytest.MonkeyPatch, reason: StopReason, note: str
) -> None:
    streams = two_terminals(monkeypatch)
    show(TextDelta("It"), done(reason))
    assert streams[0].getvalue() == "It\n"
    assert streams[1].getvalue() == note


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = two_terminals(monkeypatch)
    monkeypatch.delenv("NO_COLOR")
    Screen().error("no")
    assert streams[1].getvalue() == "\x1b[1;31mno\x1b[0m\n"


def test_notes_break_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = two_terminals(monkeypatch)
    Screen(width=20).note("a note of several words and /a/path/longer/than/the/row")
    assert err.getvalue().splitlines() == [
        "\x1b[2ma note of several\x1b[0m",
        "\x1b[2mwords and\x1b[0m",
        "\x1b[2m/a/path/longer/than/the/row\x1b[0m",
    ]


def test_in_a_pipe_a_note_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", err := io.StringIO())
    Screen(width=20).note("word " * 10)
    assert err.getvalue() == "word " * 9 + "word\n"


def test_reader_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdout", open(writing, "w"))  # noqa: SIM115
    with pytest.raises(ReaderGoneError):
        Screen().answer("x")
    sys.stdout.close()


def test_rate_and_time_left_count_the_tokens_that_need_work() -> None:
    event = PrefillProgress(done_tokens=3000, total_tokens=4000, cached_tokens=2000, elapsed_s=2.0)
    assert prefill_status(event, 99) == (
        "reading ███████████████░░░░░ 75 % of 4,000 tokens · 500 tokens/s · 2.0 s left"
        " · Ctrl-C stops"
    )
    assert prefill_status(event, 39) == "reading ███████░░ 75 % · 2.0 s left"
    assert prefill_status(event, 9) == "reading ██ 75 % · 2.0 s left"
    event = PrefillProgress(done_tokens=2000, total_tokens=4000, cached_tokens=2000, elapsed_s=0.0)
    assert prefill_status(event, 40) == "reading █████░░░░░ 50 % of 4,000 tokens"


def test_load_status_without_a_total() -> None:
    assert load_status(LoadProgress("tokenizer", 0, 0)) == "tokenizer"
    assert load_status(LoadProgress("weights", 5 * 2**30, 20 * 2**30)) == (
        "weights 25 % of 20.0 GiB"
    )


def test_keys_typed_ahead_are_kept_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = pty.openpty()

    def echoes() -> bool:
        return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)

    with os.fdopen(terminal) as stdin, os.fdopen(controller, "wb", buffering=0) as keyboard:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert echoes()
        with pytest.raises(KeyboardInterrupt), keys_kept():
            assert not echoes()
            keyboard.write(b"hi\r\x04")
            assert os.read(terminal, 9) == b"hi\r\x04"
            raise KeyboardInterrupt
        assert echoes()


@pytest.mark.parametrize("stream", ["stdin", "stderr"])
def test_enter_is_enter_before_there_is_a_prompt(
    monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal) as typed_at, os.fdopen(controller, "wb", buffering=0) as keyboard:
        monkeypatch.setattr(sys, "stdin", io.StringIO("a document"))
        monkeypatch.setattr(sys, stream, typed_at)
        keyboard.write("one\rtwo, gr\u00fcn".encode())
        with keys_kept() as typed:
            assert typed == "one\rtwo, gr\u00fcn"
        with keys_kept() as typed:
            assert typed == ""


def test_without_a_terminal_there_are_no_keys_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with keys_kept():
        pass
    monkeypatch.setattr(sys, "stdin", None)
    with keys_kept():
        pass
