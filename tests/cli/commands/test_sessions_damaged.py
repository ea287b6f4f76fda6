"""A damaged store: answers come all the same, what can be read is shown, and `repair` saves it."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rqchat.cli import app_folders
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession
from tests.fuzz.fuzz_stores import sound_store, try_one

Spoil = Callable[[Path], None]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six conversations."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = app_folders.store_file()
    path.parent.mkdir()
    path.write_bytes(sound_store())
    return path


def sql(statement: str) -> Spoil:
    def spoil(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(statement)
            connection.commit()

    return spoil


def first_page(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"\xa5" * 4096 + data[4096:])


def a_page_of_turns(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_turns_1'"
        ).fetchone()
    data = bytearray(path.read_bytes())
    data[4096 * (page - 1) : 4096 * page] = bytes(4096)
    path.write_bytes(data)


# What is spoilt; how many conversations and turns of 6 and 18 must outlive it
SPOILT: dict[str, tuple[Spoil, int, int]] = {
    "a schema that is no text": (
        sql("UPDATE sqlite_schema SET sql = CAST(x'ff43' AS TEXT) WHERE name = 'sessions'"), 6, 18
    ),
    "a table that is gone": (sql("DELETE FROM sqlite_schema WHERE name = 'turns'"), 6, 18),
    "the first page": (first_page, 6, 18),
    "an index": (a_page_of_turns, 6, 18),
    "a receipt": (sql("UPDATE turns SET receipt = '{' WHERE number = 2"), 6, 18),
    "a moment": (sql("UPDATE sessions SET updated_s = 1e300 WHERE rowid = 3"), 6, 18),
    "a title": (sql("UPDATE sessions SET title = x'ff' WHERE rowid = 3"), 6, 18),
    "an answer": (sql("UPDATE turns SET answer = x'ff' WHERE id = 3"), 6, 17),
    "a state": (sql("UPDATE turns SET state = x'ff' WHERE id = 8"), 6, 17),
    "a document": (sql("UPDATE contents SET data = x'00' WHERE rowid = 3"), 6, 18),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_what_can_be_read_is_shown_and_saved(
    run: Run, session: FakeSession, store: Path, what: str
) -> None:
    spoil, conversations, turns = SPOILT[what]
    spoil(store)
    before = store.read_bytes()

    result = run("ask", "--quiet", "-n", "One")
    assert (result.code, result.out) == (0, "It is a cat.\n")
    shown = run("sessions", "list", "--json")
    listed = [record["id"] for record in json.loads(shown.out)]
    assert (shown.code, len(listed)) == (0, conversations)
    exported = run("sessions", "export", listed[3], "--format", "json")
    assert exported.code == 0 and json.loads(exported.out)["turns"]
    assert run("sessions", "search", "Question 4.0").out.count("\n") == 1
    assert (run("ask", "-c", "Two").code, session.messages[-1].text) == (0, "It is a cat.")

    store.write_bytes(before)
    repaired = run("sessions", "repair")
    assert f"conversations: {conversations}, turns: {turns}" in repaired.err
    (kept,) = store.parent.glob("*-damaged-*.db")
    assert kept.read_bytes() == before and str(kept) in repaired.err
    assert "is in order" in run("sessions", "repair").err
    assert run("ask", "--quiet", "Three").err == ""


@pytest.mark.parametrize("what", ["a schema that is no text", "a table that is gone", "an index"])
def test_an_answer_comes_with_one_line_about_the_store(
    run: Run, session: FakeSession, store: Path, what: str
) -> None:
    SPOILT[what][0](store)
    result = run("ask", "--quiet", "One")
    assert (result.code, result.out, result.err.count("\n")) == (0, "It is a cat.\n", 1)
    assert result.err.startswith("this conversation is not being saved: ")
    assert "rqchat sessions repair" in result.err


def test_a_store_without_damage_is_left_alone(run: Run, store: Path) -> None:
    assert run("sessions", "repair").err.endswith("is in order; conversations: 6, turns: 18\n")
    assert [path.name for path in store.parent.iterdir()] == [store.name]
    store.unlink()
    assert "no " in run("sessions", "repair").err


def test_no_damage_is_a_traceback(tmp_path: Path) -> None:
    for seed in range(2):
        try_one(random.Random(seed), tmp_path)
