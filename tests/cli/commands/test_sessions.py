"""`rqchat sessions`: what is listed, shown, found, exported and removed, on which stream."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
from rich.console import RenderableType

from rqchat.cli import app_folders
from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.search import search_sessions
from rqchat.engine.conversations.sessions import find_session, list_sessions, read_turns
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import read_picture
from rqchat.engine.settings import SamplingSettings
from rqchat.ui.console import Screen
from rqchat.ui.saved_conversations import conversation_view, findings_list, sessions_table
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.recording import record

Keep = Callable[..., str]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def keep() -> Keep:
    """`keep("Hello", "Hi.")` saves a conversation of that one turn; its id."""

    def save(turn: str | UserTurn, answer: str = "It is a cat.") -> str:
        recorder = Recorder(app_folders.store_file(), "chat", pytest.fail)
        session = FakeSession(script=[answer])
        asked = UserTurn(turn) if isinstance(turn, str) else turn
        list(record(recorder, session, asked, SamplingSettings()))
        recorder.close()
        assert recorder.session_id is not None
        return recorder.session_id

    return save


def shown(view: RenderableType, width: int = 80) -> str:
    console = Screen(width=width).out
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_an_empty_store_lists_nothing(run: Run) -> None:
    for words in (["sessions"], ["sessions", "list"]):
        result = run(*words)
        assert (result.code, result.out, result.err) == (0, "", "no conversations yet\n")
    assert run("sessions", "list", "--json").out == "[]\n"


def test_the_list_for_programs_is_whole(run: Run, keep: Keep) -> None:
    ids = [keep(f"Question {number} " + "long " * 30) for number in range(3)]
    result = run("sessions", "list")
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert [row[0] for row in rows] == ids[::-1]
    assert rows[0][2:4] == ["1", "pocket"]
    assert rows[0][4].startswith("Question 2 long")
    result = run("sessions", "list", "-n", "2")
    assert len(result.out.splitlines()) == 2
    assert result.err == "2 of 3; --all lists the rest\n"
    assert len(run("sessions", "list", "-n", "1", "--all").out.splitlines()) == 3


def test_the_list_as_json(run: Run, keep: Keep) -> None:
    key = keep("Hello")
    (record,) = json.loads(run("sessions", "list", "--json").out)
    assert record["id"] == key
    assert set(record) == {
        *("id", "name", "title", "origin", "model", "system", "forked_from"),
        *("turns", "created", "updated"),
    }
    assert record["created"].endswith("+00:00")


def test_a_piped_conversation_is_markdown(run: Run, keep: Keep) -> None:
    key = keep(UserTurn("Who?", documents=(Document("book.txt", "Call me Ishmael.\n"),)))
    lines = run("sessions", "show", key[:6]).out.splitlines()
    assert lines[0] == "# Who?"
    assert lines[4:] == [
        *("## You", "", "- document book.txt (17 bytes)", "", "Who?", ""),
        *("## Model", "", "It is a cat."),
    ]


def test_shown_as_json_it_has_receipts(run: Run, keep: Keep) -> None:
    key = keep("Hello")
    (turn,) = json.loads(run("sessions", "show", key, "--json").out)["turns"]
    assert (turn["question"], turn["answer"], turn["state"]) == (
        "Hello",
        "It is a cat.",
        "complete",
    )
    receipt = turn["receipt"]
    assert receipt["revision"] == "sha256:0123456789abcdef"
    assert (receipt["sampling"]["seed"], receipt["tokens"]["output"]) == (42, 4)


def test_no_control_character_of_the_store_reaches_the_terminal(run: Run, keep: Keep) -> None:
    key = keep("Red \x1b[31m\x07question", "An \x1b]0;title\x07 answer\x9b2J")
    with Database.open(app_folders.store_file()) as database:
        session = find_session(database, key)
        views = (
            sessions_table([session]),
            conversation_view(session, read_turns(database, key)),
            findings_list(search_sessions(database, "answer")),
        )
    texts = [shown(view, 200) for view in views]
    texts += [run("sessions", *words).out for words in (["list"], ["show", key], ["search", "red"])]
    texts.append(run("sessions", "export", key).out)
    for text in texts:
        assert not {char for char in text if char < " " and char not in "\n\t"} | (
            set(text) & {"\x7f", "\x9b"}
        )
    assert "An ]0;title answer2J" in texts[1]


def test_a_narrow_terminal_cuts_titles_and_nothing_else(keep: Keep) -> None:
    key = keep("A question of some length that goes on and on")
    with Database.open(app_folders.store_file()) as database:
        text = shown(sessions_table(list_sessions(database)), width=50)
    assert f"\n{key}  2" in text and "A question of some len" in text
    assert max(len(line) for line in text.splitlines()) <= 50


def test_search(run: Run, keep: Keep) -> None:
    key = keep("Who is Ishmael?", "A sailor.")
    keep("Something else")
    result = run("sessions", "search", "sail", "ishm")
    assert result.out.startswith(f"{key}\t1\tWho is Ishmael?\t")
    (record,) = json.loads(run("sessions", "search", "--json", "sailor").out)
    assert (record["id"], record["turn"]) == (key, 1)
    result = run("sessions", "search", "whale")
    assert (result.code, result.out, result.err) == (1, "", "found nothing\n")
    assert run("sessions", "search", "--json", "whale").out == "[]\n"


def test_rename_and_remove(run: Run, keep: Keep) -> None:
    first, second = keep("One"), keep("Two")
    assert run("sessions", "rename", first, "gate").err == f"{first} is called 'gate' now\n"
    assert run("sessions", "rename", second, "Gate").code == 2
    assert (
        run("sessions", "rm", "gat", second).err
        == f"removed: {first} gate\nremoved: {second} Two\n"
    )
    assert run("sessions").err == "no conversations yet\n"


def test_remove_removes_all_or_nothing(run: Run, keep: Keep) -> None:
    key = keep("One")
    result = run("sessions", "rm", key, "nobody")
    assert result.code == 1 and "no conversation 'nobody'" in result.err
    assert run("sessions", "show", key).code == 0


def test_export(run: Run, keep: Keep, tmp_path: Path, picture_file: Path) -> None:
    document = Document("book.txt", "Call me Ishmael.\n")
    key = keep(UserTurn("What?", (read_picture(picture_file),), (document,)))
    file = tmp_path / "out.json"
    assert run("sessions", "export", key, "-o", str(file)).out == ""
    assert file.stat().st_mode & 0o777 == 0o600
    whole = json.loads(file.read_text())
    assert whole["format"] == 1
    text, picture = whole["turns"][0]["attachments"]
    assert text["text"] == document.text
    assert base64.b64decode(picture["base64"]) == picture_file.read_bytes()
    assert run("sessions", "export", key).out.startswith("# What?\n")
    again = run("sessions", "export", key, "-o", str(file))
    assert again.code == 1 and "exists already" in again.err
    assert run("sessions", "export", key, "--format", "pdf").code == 2


def test_prune_asks_for_what_and_for_consent(run: Run, keep: Keep) -> None:
    key = keep("One")
    for words in ([], ["--older-than", "soon"], ["--keep", "0"]):
        assert run("sessions", "prune", *words, stdin=b"").code == 2
    assert (
        run("sessions", "prune", "--keep", "0", "--dry-run").err == f"would be removed: {key} One\n"
    )
    assert run("sessions", "prune", "--older-than", "1d", "--yes").err == "nothing removed\n"
    assert run("sessions", "list").out.startswith(key)
    with Database.open(app_folders.store_file()) as database, database.write() as connection:
        connection.execute("UPDATE sessions SET updated_s = ?", (time.time() - 2 * 86_400,))
    assert run("sessions", "prune", "--older-than", "1d", "--yes").err == f"removed: {key} One\n"


def test_a_store_that_cannot_be_used_is_a_sentence(run: Run, data: Path) -> None:
    data.write_text("a file where the folder should be")
    result = run("sessions")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("rqchat: ") and "cannot be used" in result.err


def test_without_a_home_the_store_is_a_sentence(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *a, **k: Path("~/.local"))
    assert "set XDG_DATA_HOME" in run("sessions").err
