"""Slash commands that work on the turns of a chat."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from rqchat.engine.conversation import Message
from rqchat.errors import RqchatError
from tests.cli.conftest import Talk, texts
from tests.cli.fake_session import FakeSession


def answers(session: FakeSession) -> list[str]:
    return [message.text for message in session.messages if message.role == "assistant"]


def test_undo_goes_back_through_everything_that_was_done(talk: Talk, session: FakeSession) -> None:
    _, err = talk("one", "two", "/clear", "/undo", "/undo")
    assert "took back the clearing" in err
    assert "took back the last turn" in err
    assert [message.text for message in session.messages] == ["one", "It is a cat."]
    _, err = talk("/undo 3")
    assert session.messages == ()
    assert "there is nothing to take back" in err


def test_clear_forgets_conversation_and_attachments(
    talk: Talk, session: FakeSession, picture_file: Path
) -> None:
    talk("Hello", f"/image {picture_file}", "/clear", "Hello again")
    assert [message.text for message in session.messages] == ["Hello again", "It is a cat."]
    assert session.asked[1][0].pictures == ()


def test_retry_asks_the_same_again(talk: Talk, session: FakeSession, picture_file: Path) -> None:
    _, err = talk(f"/image {picture_file}", "What?", "/retry --seed 7", "/retry", "/retry x")
    assert [turn.text for turn, _ in session.asked] == ["What?"] * 3
    assert [len(turn.pictures) for turn, _ in session.asked] == [1, 1, 1]
    assert [sampling.seed for _, sampling in session.asked] == [None, 7, None]
    assert len(session.messages) == 2
    assert "the same answer again" in err
    assert "/retry takes nothing, or --seed NUMBER" in err


def test_a_retry_that_comes_to_nothing_leaves_the_first_answer(
    talk: Talk, session: FakeSession
) -> None:
    talk("What?")
    session.failure = RqchatError("out of memory")
    _, err = talk("/retry")
    assert "out of memory" in err
    assert answers(session) == ["It is a cat."]


def test_continue_goes_on_with_the_same_answer(talk: Talk, session: FakeSession) -> None:
    session.script = ["It is ", signal.SIGINT, "never"]
    talk("What is it?", "/stats")
    session.script = ["a cat."]
    out, _ = talk("/continue")
    assert out == "a cat.\n"
    assert session.messages == (
        Message("user", "What is it?"),
        Message("assistant", "It is a cat."),
    )
    session.script = [""]
    _, err = talk("/continue")
    assert "nothing to add" in err
    assert answers(session) == ["It is a cat."]


def test_edit_puts_the_question_back_with_what_came_along(
    talk: Talk, session: FakeSession, picture_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    talk(f"/image {picture_file}", "What?", "/edit", " And why?")
    assert texts(session) == ["What?", "What? And why?"]
    assert [len(turn.pictures) for turn, _ in session.asked] == [1, 1]
    assert len(session.messages) == 2


def test_edit_in_the_users_editor(
    talk: Talk, session: FakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "an editor"
    program.write_text('#!/bin/sh\nprintf "Why?" > "$1"\n')
    program.chmod(0o755)
    monkeypatch.setenv("EDITOR", f"'{program}'")
    talk("What?", "/edit", "")
    assert texts(session) == ["What?", "Why?"]


def test_context_shows_what_it_holds(talk: Talk) -> None:
    _, err = talk("Who are you?", "/context")
    assert re.search(r"question +3 ", err)
    assert "12 of 1,000 tokens (1.2 %), 988 free" in err


def test_compacting_puts_a_summary_for_the_older_turns(talk: Talk, session: FakeSession) -> None:
    session.model_name = "a model"
    session.script = ["many words " * 50]
    talk("one", "two")
    session.script = ["in short"]
    _, err = talk("three", "/compact")
    assert "\na summary of 2 turns:\n" in err
    assert "this stands for 2 turns: 210 tokens are 51 now" in err
    assert answers(session) == ["in short", "in short"]
    assert session.messages[2].text == "three"
    _, err = talk("/undo")
    assert "there is nothing to take back" not in err


def test_a_summary_that_saves_nothing_is_not_taken(talk: Talk, session: FakeSession) -> None:
    session.model_name = "a model"
    talk("one", "two")
    session.script = ["many words " * 50]
    _, err = talk("/compact")
    assert "the summary saves nothing" in err
    assert answers(session) == ["It is a cat.", "It is a cat."]


@pytest.mark.parametrize("written", [["  \n"], [""], ["in ", signal.SIGINT, "short"]])
def test_no_whole_summary_is_no_summary(
    talk: Talk, session: FakeSession, written: list[str | int]
) -> None:
    session.model_name = "a model"
    session.script = ["many words " * 50]
    talk("one", "two")
    before, session.script = session.messages, written
    _, err = talk("/compact")
    assert "there is no whole summary; the conversation is as it was" in err
    assert session.messages == before


def test_a_summary_needs_room(talk: Talk, session: FakeSession) -> None:
    session.model_name = "a model"
    session.script = ["word " * 800]
    talk("one", "two")
    before = session.messages
    session.asked.clear()
    _, err = talk("/compact")
    assert "there is no room for a summary: with the older turns it takes" in err
    assert "/compact drop leaves out 1 turn without one; /undo brings them back" in err
    assert (session.messages, session.asked) == (before, [])


def test_the_pocket_model_does_not_pretend_to_summarise(talk: Talk, session: FakeSession) -> None:
    _, err = talk("/compact", "one", "two", "three", "/compact", "/compact drop")
    assert "there is nothing to compact" in err
    assert "the pocket model cannot summarise. /compact drop leaves out the oldest 2 turns" in err
    assert "dropped 2 turns: 20 tokens are 10 now" in err
    assert [message.text for message in session.messages] == ["three", "It is a cat."]


def test_copy_reaches_a_clipboard_program(
    talk: Talk, session: FakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "wl-copy"
    program.write_text(f'#!/bin/sh\ncat > "{tmp_path}/copied"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    session.script = ["So:\n```sh\nls -l\n```\nand\n```\ndu\n```"]
    _, err = talk("How?", "/copy")
    assert (tmp_path / "copied").read_text() == session.script[0]
    assert "characters with wl-copy" in err
    talk("/copy code")
    assert (tmp_path / "copied").read_text() == "du\n"
    session.script = ["And:\n~~~\ndf\n~~~"]
    for number, copied in ((1, "ls -l\n"), (2, "du\n"), (3, "df\n")):
        talk(*(["More?"] if number == 1 else []), f"/copy {number}")
        assert (tmp_path / "copied").read_text() == copied
    _, err = talk("/copy 4", "/copy 0", "/copy it")
    assert "there is no block of code 4; there are 3 in this conversation" in err
    assert "there is no block of code 0" in err and "/copy takes nothing, the number" in err
