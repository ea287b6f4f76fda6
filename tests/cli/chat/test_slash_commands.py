"""Slash commands that attach, show and set, typed into a chat."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rqchat.cli import open_session
from rqchat.cli.chat import run as chat_run
from rqchat.cli.chat.chat import Chat
from rqchat.engine.settings import Settings
from rqchat.ui.looks.theme import Theme
from tests.cli.conftest import CTRL_C, CTRL_D, ENTER, NoGpuError, Run, Talk, texts
from tests.cli.fake_session import FakeSession
from tests.cli.keyboard import Keyboard
from tests.pdf_files import scan_pdf_bytes


def test_system_prompt_from_the_command_line(
    keys: Keyboard, run: Run, session: FakeSession
) -> None:
    keys.send_text("/system" + ENTER + "/system Be brief." + ENTER + "/exit" + ENTER)
    result = run("--system", "Be kind.", "--model", "m")
    assert result.err.endswith("Be kind.\n\nsystem prompt set\n\n")
    assert session.system == "Be brief."
    assert session.settings is not None and session.settings.model == "m"


def test_system_off_removes_it(talk: Talk, session: FakeSession) -> None:
    talk("/system Be brief.", "/system off")
    assert session.system is None


def test_picture_chip_and_use(talk: Talk, session: FakeSession, picture_file: Path) -> None:
    _, err = talk(f"/image {picture_file}", "What?", f"/image '{picture_file}'", "And?")
    assert re.findall(r"^\[Image.*", err, re.MULTILINE) == [
        "[Image 1: 64x48, 266 tokens]",
        "[Image 2: 64x48, 266 tokens]",
    ]
    assert [len(turn.pictures) for turn, _ in session.asked] == [1, 1]


def test_a_picture_in_a_sentence_goes_along(
    talk: Talk, session: FakeSession, picture_file: Path
) -> None:
    _, err = talk(f"What is in {picture_file}?", f"And what is in {picture_file}?")
    assert "[Image 1: 64x48, 266 tokens]" in err
    assert "[Image 1: my cat.png is in the conversation already]" in err
    assert texts(session) == [f"What is in {picture_file}?", f"And what is in {picture_file}?"]
    assert [len(turn.pictures) for turn, _ in session.asked] == [1, 0]


def test_a_question_about_a_picture_that_is_not_there_comes_back(
    talk: Talk, session: FakeSession
) -> None:
    _, err = talk("What is in ~/none/cat.png", f"{CTRL_C}Who?")
    assert "there is no picture ~/none/cat.png" in err
    assert texts(session) == ["Who?"]


@pytest.mark.parametrize("command", ["/image", "/file"])
def test_what_stands_after_the_files_is_asked(
    talk: Talk, session: FakeSession, picture_file: Path, tmp_path: Path, command: str
) -> None:
    path = picture_file if command == "/image" else tmp_path / "a b.txt"
    if command == "/file":
        path.write_text("some words")
    talk(f"{command} '{path}' \"{path}\" what's this?")
    (turn, _), *others = session.asked
    assert (turn.text, len(turn.pictures or turn.documents), others) == ("what's this?", 2, [])


def test_what_is_attached_can_be_taken_back(
    talk: Talk, session: FakeSession, picture_file: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("alpha beta gamma")
    both = (f"/image {picture_file}", f"/file {notes}")
    listed = "1 my cat.png, 266 tokens | 2 notes.txt, 3 tokens"
    _, err = talk(*both, "/detach", "/detach 9", "/context", "/detach 1", "What?", "/detach 1")
    assert err.count(f"which one? attached: {listed}; or all") == 2
    assert re.search(r"attached +3 .* notes.txt", err)
    assert "detached my cat.png, 266 tokens" in err
    assert "nothing is attached" in err
    talk(*both, "/detach notes.txt", "And?", *both, "/detach all", "Or?")
    kinds = [(len(turn.pictures), len(turn.documents)) for turn, _ in session.asked]
    assert kinds == [(0, 1), (1, 0), (0, 0)]


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


def test_pages_of_a_pdf_file_are_attached_with_one_chip(
    talk: Talk, session: FakeSession, tmp_path: Path
) -> None:
    (tmp_path / "my scan.pdf").write_bytes(scan_pdf_bytes("red", "lime", "blue"))
    name = f"'{tmp_path}/my scan.pdf'"
    _, err = talk(f"/file --pages 2-3 {name} What?", name, "And?", "/file --pages x a", "/retry")
    assert re.search(r"my scan.pdf: 2 pages as pictures, \d+ tokens\]", err)
    assert re.search(r"my scan.pdf'?: 3 pages as pictures, \d+ tokens\]", err)  # as if dropped
    assert "--pages is 'x'" in err
    named = [[picture.name for picture in turn.pictures] for turn, _ in session.asked]
    assert named[0] == ["page 2 of my scan.pdf", "page 3 of my scan.pdf"]
    assert [len(each) for each in named] == [2, 3, 3]


def test_a_folder_is_attached_with_one_chip(
    talk: Talk, session: FakeSession, picture_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    for name in ("a.py", "b.py"):
        (tmp_path / "code" / name).write_text("three more words")
    (tmp_path / "code/c.png").write_bytes(picture_file.read_bytes())
    _, err = talk(f"/file {tmp_path}/code", f"/file '{picture_file}'", "What?")
    assert f"[{tmp_path}/code: 3 files, 272 tokens]" in err
    assert "[Image 2: 64x48, 266 tokens]" in err
    turn = session.asked[0][0]
    assert (len(turn.documents), len(turn.pictures)) == (2, 2)


def test_a_piped_document_is_attached_first(
    keys: Keyboard, run: Run, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_run, "is_terminal", lambda name: name != "stdin")
    open_editor = chat_run._open_editor
    asked_for: list[bool] = []

    def from_pipe(chat: Chat, theme: Theme, *, from_terminal: bool) -> object:
        asked_for.append(from_terminal)
        return open_editor(chat, theme, from_terminal=False)

    monkeypatch.setattr(chat_run, "_open_editor", from_pipe)
    keys.send_text("Who?" + ENTER + CTRL_D)
    result = run(stdin=b"Call me Ishmael.")
    assert "[File 1: standard input, 3 tokens]" in result.err
    assert [document.text for document in session.asked[0][0].documents] == ["Call me Ishmael."]
    assert asked_for == [True]


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


def test_set_changes_the_next_answer(talk: Talk, session: FakeSession) -> None:
    _, err = talk("/set temperature 0.5", "/set max-tokens=7", "a", "/set max-tokens off", "b")
    assert "temperature = 0.5\n\nmax-tokens = 7\n\n" in err
    first, second = (sampling for _, sampling in session.asked)
    assert (first.temperature, first.max_tokens) == (0.5, 7)
    assert (second.temperature, second.max_tokens) == (0.5, None)


def test_set_alone_shows_everything(talk: Talk) -> None:
    _, err = talk("/set")
    lines = "temperature = not set\ntop-p = 0.95\ntop-k = 64\nmin-p = 0.0\nseed = not set\n"
    assert lines + "max-tokens = not set\nrepetition-penalty = 1.0\n" in err


def test_set_shows_the_keys_too(talk: Talk) -> None:
    _, err = talk("/set", "/set keys emacs")
    assert err.count("keys = emacs") == 2


def test_thinking_is_switched(talk: Talk, session: FakeSession) -> None:
    _, err = talk("/think maybe", "/think on")
    assert "/think takes 'on' or 'off'" in err
    assert session.thinking


def test_thoughts_are_folded_and_can_be_unfolded(talk: Talk, session: FakeSession) -> None:
    session.thoughts = ["first this, ", "then that"]
    _, err = talk("What?", "/think show", "/think unfold", "And?")
    assert re.search(r"thought for 0\.\d s, about 2 tokens · /think show", err)
    assert err.count("first this, then that\n") == 2


def test_stats_before_and_after_an_answer(talk: Talk) -> None:
    _, err = talk("/stats", "What is it?", "/stats")
    assert "no answer yet" in err
    assert "8 tokens (0 of pictures, 0 cached) in 0.5 s, 16 tokens/s" in err


def test_help_names_every_command_and_key(talk: Talk) -> None:
    _, err = talk("/help")
    for name in ("/image PATH", "/file PATH", "/clear", "/system", "/set", "/stats", "Ctrl-J"):
        assert name in err
    assert "\n  Tab " in err and "/quit" in err


def test_another_model_takes_over_the_conversation(talk: Talk, session: FakeSession) -> None:
    _, err = talk("one", "/model", "/model other", "two")
    assert "pocket; /model NAME switches" in err
    assert session.settings is not None and session.settings.model == "other"
    assert len(session.messages) == 4


def test_a_model_that_cannot_be_had_gives_way_to_the_one_before(
    talk: Talk, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_before = open_session.open_session

    def refuse(settings: Settings, *others: Any) -> Any:
        if settings.model == "missing":
            raise NoGpuError("there is no model missing")
        return open_before(settings, *others)

    monkeypatch.setattr(open_session, "open_session", refuse)
    _, err = talk("one", "/model missing", "two")
    assert "there is no model missing\n" in err
    assert "going back to the model before" in err
    assert len(session.messages) == 4
