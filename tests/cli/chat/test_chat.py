"""The chat, driven by keys: what is typed, answered, and what survives an error."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.table import all_commands
from rqchat.engine.conversation import Message
from rqchat.engine.settings import Settings
from rqchat.errors import RqchatError
from tests.cli.conftest import CTRL_C, CTRL_D, CTRL_J, ENTER, NoGpuError, Run, Talk, texts
from tests.cli.fake_session import FakeSession
from tests.cli.keyboard import Keyboard


def test_answers_stream_to_stdout(talk: Talk, session: FakeSession) -> None:
    out, _ = talk("What is it?", "", "And this?")
    assert out == "It is a cat.\nIt is a cat.\n"
    assert texts(session) == ["What is it?", "And this?"]


def test_ctrl_j_and_alt_enter_make_one_message(talk: Talk, session: FakeSession) -> None:
    talk(f"one{CTRL_J}two\x1b{ENTER}three")
    assert texts(session) == ["one\ntwo\nthree"]


def test_ctrl_c_stops_the_answer_and_keeps_the_text(talk: Talk, session: FakeSession) -> None:
    session.script = ["It is ", signal.SIGINT, "a cat."]
    out, err = talk("What is it?")
    assert out == "It is \n"
    assert "[interrupted: the answer is not complete]" in err
    assert session.messages == (
        Message("user", "What is it?"),
        Message("assistant", "It is ", interrupted=True),
    )


def test_a_turn_stopped_before_its_answer_comes_back(talk: Talk, session: FakeSession) -> None:
    session.script = [signal.SIGINT, "never"]
    out, _ = talk("What is it?", " Again?")
    assert out == ""
    assert texts(session) == ["What is it?", "What is it? Again?"]


def test_two_ctrl_c_at_an_empty_prompt_leave(
    keys: Keyboard, run: Run, session: FakeSession
) -> None:
    keys.send_text("typed" + CTRL_C + "kept" + ENTER + CTRL_C + CTRL_C)
    assert run().code == 0
    assert texts(session) == ["kept"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("help", "/image PATH"),
        ("/reset", "cleared; the next message"),
        ("/regenerate", "the same answer again"),
        ("/history", "/load ID goes on with one"),
        ("/tokens", " free"),
        ("/sys", "no system prompt"),
        ("/add", "which one? for example: /file"),
        ("/set parameter temperature 0.5", "temperature = 0.5"),
        ("/set system Be brief.", "there is nothing called system to set; /system TEXT sets"),
        ("/set colour red", "there is nothing called colour to set; /set lists what there is"),
    ],
)
def test_names_from_other_programs_work_or_are_explained(talk: Talk, typed: str, said: str) -> None:
    assert said in talk("Hello", typed)[1]


@pytest.mark.parametrize("word", ["/exit", "/quit", "/bye", "exit", "quit"])
def test_words_that_leave(keys: Keyboard, run: Run, session: FakeSession, word: str) -> None:
    keys.send_text(f"how do I {word}" + ENTER + word + ENTER)
    assert run().code == 0
    assert texts(session) == [f"how do I {word}"]


def test_a_cleared_line_is_in_the_history(keys: Keyboard, run: Run, session: FakeSession) -> None:
    keys.send_text("long question" + CTRL_C + CTRL_D)
    run()
    keys.send_text("\x1b[A" + ENTER + CTRL_D)
    run()
    assert texts(session) == ["long question"]


def test_history_survives_the_process(keys: Keyboard, run: Run, session: FakeSession) -> None:
    keys.send_text("first" + CTRL_J + "line" + ENTER + CTRL_D)
    run()
    keys.send_text("\x12fir" + ENTER + ENTER + CTRL_D)
    run()
    assert texts(session) == ["first\nline", "first\nline"]


def test_history_is_for_its_owner_alone(talk: Talk, tmp_path: Path) -> None:
    talk("Hello")
    file = tmp_path / "state" / "rqchat" / "history"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_no_place_for_history_is_no_reason_to_stop(
    keys: Keyboard, run: Run, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    keys.send_text("Hello" + ENTER + CTRL_D)
    assert run().out == "It is a cat.\n"


def test_an_error_keeps_what_was_typed_and_attached(
    talk: Talk, session: FakeSession, picture_file: Path
) -> None:
    session.failure = RqchatError("out of memory")
    out, err = talk(f"/image {picture_file}", "What is", " it?")
    assert "out of memory\n" in err
    assert out == "It is a cat.\n"
    assert texts(session) == ["What is", "What is it?"]
    assert len(session.asked[1][0].pictures) == 1


def test_a_bug_shows_its_traceback_and_keeps_the_conversation(
    talk: Talk, session: FakeSession
) -> None:
    session.failure = ZeroDivisionError("broken")
    out, err = talk("Hello")
    assert "ZeroDivisionError: broken" in err
    assert "this is a bug in rqchat; the chat goes on" in err
    assert out == ""


def test_a_model_that_cannot_be_opened_ends_with_its_exit_code(
    keys: Keyboard, run: Run, session: FakeSession
) -> None:
    session.opening_failure = NoGpuError("it does not fit")
    result = run()
    assert result.code == 3
    assert result.err.endswith("rqchat: it does not fit\n")


def test_no_terminal_says_what_to_do(run: Run, session: FakeSession) -> None:
    result = run(stdin=b"text")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        'rqchat: a chat needs a terminal; for pipes and files: rqchat ask "QUESTION"\n'
    )


def test_status_line(keys: Keyboard, session: FakeSession) -> None:
    from rqchat.ui.console import Screen

    chat = Chat(Screen(quiet=True), Settings(), all_commands(), None)
    chat.model.load()
    chat.session()
    assert chat.status(80) == "pocket | bf16 | 4-bit KV | 0 of 1,000 tokens (0 %) | 477 MiB VRAM"
    session.restore((Message("user", "one two"), Message("assistant", "three")))
    assert " | 8 of 1,000 tokens (0 %) | " in chat.status(80)


# Defects found in other assistants' chats that are the chat's own; those of inputs and pipes are
# in test_defects.py. An answer is lost: test_ctrl_c_stops_the_answer_and_keeps_the_text.
# An error ends the chat: test_a_bug_shows_its_traceback_and_keeps_the_conversation. Leaving loses
# the conversation: test_chat_saving.py. No reverse search: test_history_survives_the_process.


def test_a_question_that_is_too_long_leaves_no_trace(talk: Talk, session: FakeSession) -> None:
    out, err = talk("word " * 1000, "\x15short")
    assert "1005 tokens are more than 1000" in err
    assert [message.text for message in session.messages] == ["short", "It is a cat."]
    assert out == "It is a cat.\n"


def test_emoji_and_line_breaks_can_be_typed(talk: Talk, session: FakeSession) -> None:
    talk(f"Grüße 👩‍👩‍👧 日本{CTRL_J}e\u0301")
    assert texts(session) == ["Grüße 👩‍👩‍👧 日本\ne\u0301"]
