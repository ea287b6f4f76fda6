"""What `rqchat ask` saves, goes on with, and does where it cannot save."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from rqchat.cli import app_folders
from rqchat.engine.conversation import Message
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.records import TurnRecord
from rqchat.engine.conversations.sessions import list_sessions, read_turns, rename_session
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def saved() -> list[list[TurnRecord]]:
    """The turns of each session, from the oldest session on."""
    with Database.open(app_folders.store_file()) as database:
        return [list(read_turns(database, each.id)) for each in list_sessions(database)][::-1]


def newest_id() -> str:
    with Database.open(app_folders.store_file()) as database:
        return list_sessions(database, 1)[0].id


def test_a_question_is_a_conversation_that_can_go_on(run: Run, session: FakeSession) -> None:
    run("ask", "--system", "Be brief.", "One")
    first = session.messages
    session.messages, session.system = (), None
    assert run("ask", "--continue", "Two").code == 0
    assert session.messages[:2] == first
    assert session.system == "Be brief."
    assert [[turn.question for turn in turns] for turns in saved()] == [["One", "Two"]]


def test_the_model_of_the_conversation_is_taken_unless_another_is_named(
    run: Run, session: FakeSession
) -> None:
    run("ask", "One")
    run("ask", "-c", "Two")
    assert session.settings is not None and session.settings.model == "pocket"
    run("ask", "-c", "--model", "other", "Three")
    assert session.settings.model == "other"


def test_resume_by_the_beginning_of_an_id_or_a_name(run: Run, session: FakeSession) -> None:
    run("ask", "One")
    key = newest_id()
    with Database.open(app_folders.store_file()) as database:
        rename_session(database, key, "north gate")
    session.clear()
    run("ask", "Another")
    for reference in (key[:7], "north", "NORTH GATE"):
        session.clear()
        run("ask", "--resume", reference, f"By {reference}")
    assert [len(turns) for turns in saved()] == [1, 4]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["-c", "x"], 1, "there is no conversation to go on with yet"),
        (["-r", "nobody", "x"], 1, "there is no conversation 'nobody'"),
        (["-c", "-r", "a", "x"], 2, "--continue takes the latest"),
    ],
)
def test_what_cannot_be_resumed_is_said_before_the_model_loads(
    run: Run, session: FakeSession, words: list[str], code: int, sentence: str
) -> None:
    result = run("ask", *words)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"rqchat: {sentence}")
    assert session.settings is None


def test_several_questions_are_conversations_of_their_own(run: Run, session: FakeSession) -> None:
    result = run("ask", "-q", "One", "-q", "Two")
    assert [[turn.question for turn in turns] for turns in saved()] == [["One"], ["Two"]]
    ids = [json.loads(line)["session"] for line in result.out.splitlines()]
    with Database.open(app_folders.store_file()) as database:
        assert ids == [each.id for each in list_sessions(database, 2)][::-1]
    assert run("ask", "-c", "-q", "Three", "-q", "Four").code == 2


def test_no_log_saves_nothing(run: Run, session: FakeSession, data: Path) -> None:
    for flag in ("--no-log", "-n"):
        assert run("ask", flag, "One").code == 0
    assert not data.exists()


def test_no_log_can_go_on_with_what_was_saved(run: Run, session: FakeSession) -> None:
    run("ask", "One")
    session.clear()
    result = run("ask", "-n", "-c", "--json", "Two")
    assert len(session.messages) == 4
    assert json.loads(result.out)["session"] is None  # what is said here is not in it
    assert [len(turns) for turns in saved()] == [1]


def test_an_interrupted_answer_is_saved_and_marked(run: Run, session: FakeSession) -> None:
    session.script = ["It is ", signal.SIGINT, "a cat."]
    assert run("ask", "One").code == 130
    ((turn,),) = saved()
    assert (turn.answer.strip(), turn.state) == ("It is", "interrupted")
    session.clear()
    session.script = ["Yes."]
    run("ask", "-c", "Go on")
    assert session.messages[1] == Message("assistant", turn.answer, interrupted=True)


def test_a_prompt_that_is_too_long_is_not_saved(run: Run, session: FakeSession) -> None:
    assert run("ask", "word " * 2000).code == 4
    assert saved() == []


def test_where_nothing_can_be_saved_the_answer_comes_with_one_warning(
    run: Run, session: FakeSession, data: Path
) -> None:
    data.write_text("a file where the folder should be")
    result = run("ask", "--quiet", "--json", "One")
    assert (result.code, json.loads(result.out)["answer"]) == (0, "It is a cat.")
    assert result.err.count("\n") == 1
    assert result.err.startswith("this conversation is not being saved: ")


def test_a_damaged_store_is_left_as_it_is(run: Run, session: FakeSession, data: Path) -> None:
    file = data / "rqchat" / "conversations.db"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no database" * 1000)
    result = run("ask", "--quiet", "One")
    assert (result.code, result.out) == (0, "It is a cat.\n")
    assert "is damaged" in result.err and str(file) in result.err
    assert file.read_bytes() == b"no database" * 1000
    assert run("sessions").code == 1
