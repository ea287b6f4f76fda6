"""The chat, driven by keys: what is typed, attached, answered, and what survives an error."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from rqchat.cli import chat as chat_module
from rqchat.cli import opening
from rqchat.cli.chat import Chat
from rqchat.engine.conversation import Message
from rqchat.engine.settings import Settings
from rqchat.errors import RqchatError

from .conftest import FakeSession, NoGpuError, Run
from .keyboard import Keyboard

CTRL_C, CTRL_D, CTRL_J, ENTER = "\x03", "\x04", "\n", "\r"
Talk = Callable[..., tuple[str, str]]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Keyboard]:
    """A keyboard, on a terminal that draws nothing, with a home of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(chat_module, "is_terminal", lambda name: True)
    open_editor = chat_module._open_editor
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        keyboard = Keyboard(pipe)

        def open_watched(chat: Chat, *, from_terminal: bool) -> object:
            return keyboard.watch(chat, open_editor(chat, from_terminal=from_terminal))

        monkeypatch.setattr(chat_module, "_open_editor", open_watched)
        yield keyboard


@pytest.fixture
def talk(
    keys: Keyboard, run: Run, session: FakeSession, capsys: pytest.CaptureFixture[str]
) -> Talk:
    """`talk("Hello", "/stats")`: types the lines, clears what is left, leaves; both outputs."""

    session.before_signal = keys.wait_for_prompt

    def type_and_leave(*lines: str) -> tuple[str, str]:
        keys.send_text("".join(line + ENTER for line in lines) + CTRL_C + CTRL_D)
        result = run()
        assert result.code == 0
        return result.out, result.err

    return type_and_leave


def texts(session: FakeSession) -> list[str]:
    return [turn.text for turn, _ in session.asked]


def test_answers_stream_to_stdout(talk: Talk, session: FakeSession) -> None:
    out, _ = talk("What is it?", "", "And this?")
    assert out == "It is a cat.\nIt is a cat.\n"
    assert texts(session) == ["What is it?", "And this?"]


def test_ctrl_j_and_alt_enter_make_one_message(talk: Talk, session: FakeSession) -> None:
    talk(f"one{CTRL_J}two\x1b{ENTER}three")
    assert texts(session) == ["one\ntwo\nthree"]


def test_system_prompt_from_the_command_line(
    keys: Keyboard, run: Run, session: FakeSession
) -> None:
    keys.send_text("/system" + ENTER + "/system Be brief." + ENTER + "/exit" + ENTER)
    result = run("--system", "Be kind.", "--model", "m")
    assert result.err.endswith("Be kind.\nsystem prompt set\n")
    assert session.system == "Be brief."
    assert session.settings is not None and session.settings.model == "m"


def test_system_off_removes_it(talk: Talk, session: FakeSession) -> None:
    talk("/system Be brief.", "/system off")
    assert session.system is None


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


def test_picture_chip_and_use(talk: Talk, session: FakeSession, picture_file: Path) -> None:
    _, err = talk(f"/image {picture_file}", "What?", f"/image '{picture_file}'", "And?")
    assert re.findall(r"^\[Image.*", err, re.MULTILINE) == [
        "[Image 1: 64x48, 266 tokens]",
        "[Image 2: 64x48, 266 tokens]",
    ]
    assert [len(turn.pictures) for turn, _ in session.asked] == [1, 1]


@pytest.mark.parametrize("spelling", ["{}", '"{}"', "'{}'", "{escaped}", "file://{url}"])
def test_picture_path_as_terminals_paste_it(
    talk: Talk, session: FakeSession, picture_file: Path, spelling: str
) -> None:
    text = str(picture_file)
    escaped, url = text.replace(" ", "\\ "), text.replace(" ", "%20")
    pasted = spelling.format(text, escaped=escaped, url=url)
    talk(f"/image {pasted}", "What?", pasted, "And?")
    assert texts(session) == ["What?", "And?"]
    assert [len(turn.pictures) for turn, _ in session.asked] == [1, 1]


def test_home_is_a_tilde(
    talk: Talk, session: FakeSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes.txt").write_text("alpha beta gamma")
    _, err = talk("/file ~/notes.txt", "What?")
    assert "[File 1: notes.txt, 3 tokens]" in err
    assert [document.text for document in session.asked[0][0].documents] == ["alpha beta gamma"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/imgae cat.png", "there is no command /imgae; did you mean /image?"),
        ("/zzzzzz", "there is no command /zzzzzz; /help lists them"),
        ("/image", "which one? for example: /image cat.png"),
        ("/image missing.png", "missing.png does not exist"),
        ("/image 'open", "a quote is not closed"),
        ("/file none/", "does not exist"),
        ("/set temprature 1", "there is nothing called temprature to set; did you mean temper"),
        ("/set temperature hot", "temperature takes a number"),
        ("/set temperature 99", "temperature is 99.0; it goes from 0 to 10"),
        ("/set seed 1.5", "seed takes a whole number"),
    ],
)
def test_a_bad_command_is_answered_and_the_chat_goes_on(
    talk: Talk, session: FakeSession, line: str, said: str
) -> None:
    out, err = talk(line, "Hello")
    assert said in err
    assert out == "It is a cat.\n"
    assert texts(session) == ["Hello"]


def test_a_path_at_the_start_of_a_line_is_no_command(talk: Talk, session: FakeSession) -> None:
    talk("/etc/hosts/nothing is missing, why?", "/tmp")
    assert texts(session) == ["/etc/hosts/nothing is missing, why?", "/tmp"]


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


def test_set_changes_the_next_answer(talk: Talk, session: FakeSession) -> None:
    _, err = talk("/set temperature 0.5", "/set max-tokens=7", "a", "/set max-tokens off", "b")
    assert "temperature = 0.5\nmax-tokens = 7\n" in err
    first, second = (sampling for _, sampling in session.asked)
    assert (first.temperature, first.max_tokens) == (0.5, 7)
    assert (second.temperature, second.max_tokens) == (0.5, None)


def test_set_alone_shows_everything(talk: Talk) -> None:
    _, err = talk("/set")
    lines = "temperature = not set\ntop-p = 0.95\ntop-k = 64\nmin-p = 0.0\nseed = not set\n"
    assert lines + "max-tokens = not set\n" in err


def test_thinking_is_switched(talk: Talk, session: FakeSession) -> None:
    _, err = talk("/think maybe", "/think on")
    assert "/think takes 'on' or 'off'" in err
    assert session.thinking


def test_clear_forgets_conversation_and_attachments(
    talk: Talk, session: FakeSession, picture_file: Path
) -> None:
    talk("Hello", f"/image {picture_file}", "/clear", "Hello again")
    assert [message.text for message in session.messages] == ["Hello again", "It is a cat."]
    assert session.asked[1][0].pictures == ()


def test_set_shows_the_keys_too(talk: Talk) -> None:
    _, err = talk("/set", "/set keys emacs")
    assert err.count("keys = emacs") == 2


def test_stats_before_and_after_an_answer(talk: Talk) -> None:
    _, err = talk("/stats", "What is it?", "/stats")
    assert "no answer yet" in err
    assert "8 tokens (0 of pictures, 0 cached) in 0.5 s, 16 tokens/s" in err


def test_help_names_every_command_and_key(talk: Talk) -> None:
    _, err = talk("/help")
    for name in ("/image PATH", "/file PATH", "/clear", "/system", "/set", "/stats", "Ctrl-J"):
        assert name in err
    assert "\nTab " in err and "/quit" in err


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


def test_a_piped_document_is_attached_first(
    keys: Keyboard, run: Run, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_module, "is_terminal", lambda name: name != "stdin")
    open_editor = chat_module._open_editor
    asked_for: list[bool] = []

    def from_pipe(chat: Chat, *, from_terminal: bool) -> object:
        asked_for.append(from_terminal)
        return open_editor(chat, from_terminal=False)

    monkeypatch.setattr(chat_module, "_open_editor", from_pipe)
    keys.send_text("Who?" + ENTER + CTRL_D)
    result = run(stdin=b"Call me Ishmael.")
    assert "[File 1: standard input, 3 tokens]" in result.err
    assert [document.text for document in session.asked[0][0].documents] == ["Call me Ishmael."]
    assert asked_for == [True]


def test_status_line(keys: Keyboard, session: FakeSession) -> None:
    from rqchat.engine.settings import Settings
    from rqchat.ui.console import Screen

    chat = Chat(Screen(quiet=True), Settings(), None)
    chat.model.load()
    chat.session()
    assert chat.status() == "pocket | bf16 | 4-bit KV | 0 of 1,000 tokens (0 %) | 500 MB VRAM"


def test_a_folder_is_attached_with_one_chip(
    talk: Talk, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / "code" / name).write_text("three more words")
    out, err = talk(f"/file {tmp_path}/code", "What?")
    assert f"[{tmp_path}/code: 2 files, 6 tokens]" in err
    assert len(session.asked[0][0].documents) == 2


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
    assert "summarised 2 turns: 210 tokens are 51 now" in err
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


def test_the_pocket_model_does_not_pretend_to_summarise(talk: Talk, session: FakeSession) -> None:
    _, err = talk("/compact", "one", "two", "three", "/compact", "/compact drop")
    assert "there is nothing to compact" in err
    assert "the pocket model cannot summarise. /compact drop leaves out the oldest 2 turns" in err
    assert "dropped 2 turns: 20 tokens are 10 now" in err
    assert [message.text for message in session.messages] == ["three", "It is a cat."]


def test_another_model_takes_over_the_conversation(talk: Talk, session: FakeSession) -> None:
    _, err = talk("one", "/model", "/model other", "two")
    assert "pocket; /model NAME switches" in err
    assert session.settings is not None and session.settings.model == "other"
    assert len(session.messages) == 4


def test_a_model_that_cannot_be_had_gives_way_to_the_one_before(
    talk: Talk, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_session = opening.open_session

    def refuse(settings: Settings, *others: Any) -> Any:
        if settings.model == "missing":
            raise NoGpuError("there is no model missing")
        return open_session(settings, *others)

    monkeypatch.setattr(opening, "open_session", refuse)
    _, err = talk("one", "/model missing", "two")
    assert "there is no model missing\n" in err
    assert "going back to the model before" in err
    assert len(session.messages) == 4


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


def test_thoughts_are_folded_and_can_be_unfolded(talk: Talk, session: FakeSession) -> None:
    session.thoughts = ["first this, ", "then that"]
    _, err = talk("What?", "/think show", "/think unfold", "And?")
    assert re.search(r"\[thought for 0\.\d s; /think show unfolds it\]", err)
    assert err.count("first this, then that\n") == 2
