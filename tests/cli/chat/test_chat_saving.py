"""What the chat saves, and how it goes on with it: keys in, store and both outputs out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rqchat.cli import app_folders
from rqchat.engine.conversation import Message
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.records import SessionRecord
from rqchat.engine.conversations.sessions import list_sessions, read_turns
from tests.cli.conftest import CTRL_D, ENTER, Run, Talk, texts
from tests.cli.fake_session import FakeSession
from tests.cli.keyboard import Keyboard


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


class Shortening(list[str | int]):
    """Scripts for one answer after another, and "in short" for ever after."""

    def __iter__(self) -> Iterator[str | int]:
        yield self.pop(0) if self else "in short"


def sessions() -> list[SessionRecord]:
    """From the oldest on."""
    with Database.open(app_folders.store_file()) as database:
        return list(list_sessions(database))[::-1]


def questions(session: SessionRecord) -> list[str]:
    with Database.open(app_folders.store_file()) as database:
        return [turn.question for turn in read_turns(database, session.id)]


def test_a_chat_is_saved_and_says_how_to_go_on(talk: Talk, session: FakeSession) -> None:
    _, err = talk("One", "Two")
    (saved,) = sessions()
    assert questions(saved) == ["One", "Two"]
    assert saved.origin == "chat"
    assert err.endswith(f"rqchat --resume {saved.id} goes on from here\n")


def test_a_chat_without_a_word_leaves_no_trace(talk: Talk, data: Path) -> None:
    _, err = talk("/help")
    assert "--resume" not in err
    assert not data.exists()


def test_no_log_saves_nothing_until_save_asks_for_it(
    keys: Keyboard, run: Run, session: FakeSession, data: Path
) -> None:
    keys.send_text("One" + ENTER + CTRL_D)
    assert "--resume" not in run("--no-log").err
    assert not data.exists()
    session.clear()
    keys.send_text("One" + ENTER + "/save kept after all" + ENTER + "Two" + ENTER + CTRL_D)
    run("-n")
    (saved,) = sessions()
    assert (saved.name, questions(saved)) == ("kept after all", ["One", "Two"])


@pytest.mark.parametrize("how", ["--continue", "-c", "--resume", "-r"])
def test_a_saved_chat_goes_on(
    talk: Talk, keys: Keyboard, run: Run, session: FakeSession, how: str
) -> None:
    talk("/system Be brief.", "One")
    before, session.messages, session.system = session.messages, (), None
    (saved,) = sessions()
    keys.send_text("Two" + ENTER + CTRL_D)
    err = run(how, *([saved.id[:6]] if "r" in how.lstrip("-")[:1] else [])).err
    assert f"going on with One ({saved.id}, 1 turn)\n\n> One\n\nIt is a cat.\n\n" in err
    assert session.messages[:2] == before
    assert session.system == "Be brief."
    assert [questions(each) for each in sessions()] == [["One", "Two"]]


def test_what_cannot_be_resumed_ends_before_the_prompt(run: Run, session: FakeSession) -> None:
    result = run("--resume", "nobody")
    assert result.code == 1 and "no conversation 'nobody'" in result.err
    assert session.settings is None


def test_a_question_whose_answer_was_killed_is_at_the_prompt_again(
    talk: Talk, keys: Keyboard, run: Run, session: FakeSession
) -> None:
    talk("One", "Two")
    with Database.open(app_folders.store_file()) as database, database.write() as connection:
        connection.execute("UPDATE turns SET answer = '', state = 'unfinished' WHERE number = 2")
    session.clear()
    session.asked.clear()
    keys.send_text(ENTER + CTRL_D)
    assert "the last question had no answer yet; Enter asks it again" in run("-c").err
    assert texts(session) == ["Two"]
    assert [questions(each) for each in sessions()] == [["One", "Two"]]
    assert len(session.messages) == 4


def test_a_partial_answer_that_was_killed_is_part_of_the_conversation(
    talk: Talk, keys: Keyboard, run: Run, session: FakeSession
) -> None:
    talk("One")
    with Database.open(app_folders.store_file()) as database, database.write() as connection:
        connection.execute("UPDATE turns SET answer = 'It is', state = 'unfinished'")
    keys.send_text("Two" + ENTER + CTRL_D)
    assert "[interrupted: the answer is not complete]" in run("-c").err
    assert session.messages[1] == Message("assistant", "It is", interrupted=True)


def test_undo_retry_and_clear_reach_the_store(talk: Talk, session: FakeSession) -> None:
    talk("One", "Two", "/undo", "Three", "/retry", "/clear", "Four")
    assert [questions(each) for each in sessions()] == [["One", "Three"], ["Four"]]


def test_load_goes_on_with_another_and_undo_comes_back(talk: Talk, session: FakeSession) -> None:
    talk("One", "/save first")
    session.clear()
    _, err = talk("Two", "/load first", "Three", "/undo", "/undo", "Four")
    assert "going on with first (" in err
    first, second = sessions()
    assert (questions(first), questions(second)) == (["One"], ["Two", "Four"])


def test_undo_after_load_brings_the_system_prompt_back(talk: Talk, session: FakeSession) -> None:
    talk("/system Be kind.", "One", "/save first")
    session.clear()
    _, err = talk("/system Be brief.", "/load first", "/system", "/undo", "/system")
    assert err.index("\nBe kind.\n") < err.index("took back the loading") < err.index("\nBe brief.")


def test_a_summary_leaves_the_conversation_that_it_stands_for(
    talk: Talk, session: FakeSession
) -> None:
    session.model_name, session.script = "a model", Shortening(["many words " * 50] * 3)
    talk("One", "Two", "Three", "/compact", "Four")
    before, after = sessions()
    assert questions(before) == ["One", "Two", "Three"]
    assert [text.split()[0] for text in questions(after)] == ["Summarise", "Three", "Four"]
    assert (after.forked_from, after.title) == (before.id, "One")


def test_fork_leaves_the_original(talk: Talk, session: FakeSession) -> None:
    talk("One", "/fork other", "Two")
    first, other = sessions()
    assert (questions(first), questions(other)) == (["One"], ["One", "Two"])
    assert (other.name, other.forked_from) == ("other", first.id)


def test_sessions_lists_and_searches(talk: Talk, session: FakeSession) -> None:
    _, err = talk("Who is Ishmael?", "/sessions", "/sessions ishm", "/sessions whale")
    (saved,) = sessions()
    assert re.search(rf"{saved.id} .* Who is Ishmael\?\n/load ID goes on with one\n", err)
    assert "Who is Ishmael" in err.split("goes on with one")[1]
    assert "found nothing\n" in err


def test_export_writes_a_new_file(talk: Talk, session: FakeSession, tmp_path: Path) -> None:
    _, err = talk(
        "One", f"/export {tmp_path / 'a.md'}", f"/export {tmp_path / 'a.md'}",
        f"/export {tmp_path / 'b.json'}",
    )  # fmt: skip
    assert (tmp_path / "a.md").read_text().startswith("# One\n")
    assert (tmp_path / "b.json").read_text().startswith('{\n  "format": 1')
    assert "a.md exists already" in err


@pytest.mark.parametrize("command", ["/save", "/fork", "/export"])
def test_an_empty_conversation_is_not_saved(talk: Talk, data: Path, command: str) -> None:
    assert "there is no answer yet, and so nothing to save" in talk(command)[1]
    assert not data.exists()


def test_a_store_that_cannot_be_used_is_reported_once_and_the_chat_goes_on(
    talk: Talk, session: FakeSession, data: Path
) -> None:
    data.write_text("a file where the folder should be")
    out, err = talk("One", "Two", "/sessions", "/save x")
    assert out == "It is a cat.\nIt is a cat.\n"
    assert err.count("this conversation is not being saved: ") == 1
    assert "the conversation could not be saved" in err
    assert "--resume" not in err
