"""`rqchat replay`: answers of a real, tiny model made again, to the bit where nothing changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rqchat.cli import app_folders
from rqchat.cli.open_session import open_session
from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.sessions import list_sessions
from rqchat.engine.inputs.documents import Document
from rqchat.engine.settings import SamplingSettings, Settings
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.recording import record

GREEDY = SamplingSettings(temperature=0, max_tokens=12)


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="module")
def chat(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat of four turns over a live cache: greedy, sampled, interrupted, after a document."""
    settings = Settings(str(tiny_folder), device="cpu", kv_bits=4, no_cache=True)
    session = open_session(settings, "Be brief.", lambda event: None)
    path = tmp_path_factory.mktemp("chat") / "conversations.db"
    recorder = Recorder(path, "chat", pytest.fail)
    book = Document("book.txt", "Call me Ishmael. " * 40)  # long enough to be packed
    list(record(recorder, session, UserTurn("Who?", documents=(book,)), GREEDY))
    drawn = SamplingSettings(temperature=1.0, max_tokens=12)
    list(record(recorder, session, UserTurn("And then?"), drawn))
    session.thinking = True
    for count, _ in enumerate(record(recorder, session, UserTurn("More"), GREEDY)):
        if count == 8:
            session.interrupt()
    session.thinking = False
    list(record(recorder, session, UserTurn("The end?"), GREEDY))
    recorder.close()
    return path


@pytest.fixture
def key(chat: Path) -> str:
    """Id of a copy of that chat."""
    app_folders.store_file().parent.mkdir(parents=True)
    shutil.copy(chat, app_folders.store_file())
    with Database.open(app_folders.store_file()) as database:
        return list_sessions(database)[0].id


def tamper(statement: str) -> None:
    with Database.open(app_folders.store_file()) as database, database.write() as connection:
        connection.execute(statement)


def test_every_answer_of_a_live_chat_comes_out_the_same(run: Run, key: str) -> None:
    result = run("replay", key)
    assert result.code == 0
    assert all("rqchat calibrate" in line for line in result.err.splitlines())
    lines = result.out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"turn {n}: the same" for n in (1, 2, 3, 4)]


def test_one_answer_is_made_again_in_its_place(run: Run, key: str) -> None:
    result = run("replay", key[:5], "--turn", "2", "--json")
    (record,) = json.loads(result.out)
    assert (result.code, record["turn"], record["same"], record["changed"]) == (0, 2, True, {})
    assert record["saved"] == record["replayed"] != ""
    assert record["tokens"]["cached"] > 0  # read over the turn before it, as the chat did


def test_what_differs_is_shown(run: Run, key: str) -> None:
    tamper(
        "UPDATE turns SET answer = 'Something else', receipt ="
        " json_set(receipt, '$.torch', '1.0', '$.kv_mode', 'planar', '$.calibration', '01')"
        " WHERE number = 1"
    )
    result = run("replay", key, "--turn", "1")
    assert result.code == 1
    assert "turn 1: torch was 1.0, is 2." in result.err
    assert "turn 1: kv_mode was planar, is aligned" in result.err
    assert "turn 1: calibration was 01, is none" in result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("turn 1: differs, ")
    assert lines[1:3] == ["--- saved", "+++ replayed"] and "-Something else" in lines


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["nobody"], 1, "there is no conversation 'nobody'"),
        (["", "--turn", "9"], 1, "there is no turn 9; the conversation has 1"),
        (["", "--turn", "0"], 2, "Invalid value for '--turn'"),
    ],
)
def test_what_cannot_be_replayed_is_said(
    run: Run, session: FakeSession, words: list[str], code: int, sentence: str
) -> None:
    run("ask", "One")
    with Database.open(app_folders.store_file()) as database:
        words[0] = words[0] or list_sessions(database)[0].id
    result = run("replay", *words)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"rqchat: {sentence}")


def test_a_question_without_answer_is_passed_over(run: Run, session: FakeSession) -> None:
    run("ask", "One")
    tamper("UPDATE turns SET answer = '', state = 'unfinished'")
    with Database.open(app_folders.store_file()) as database:
        key = list_sessions(database)[0].id
    assert "no answer yet" in run("replay", key).err
    assert "turn 1 has no answer" in run("replay", key, "--turn", "1").err
