"""Sessions listed, found by what people remember of them, and removed without a trace."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.search import search_sessions
from rqchat.engine.conversations.sessions import (
    count_sessions,
    find_session,
    latest_session,
    list_sessions,
    old_sessions,
    remove_sessions,
    rename_session,
)
from rqchat.engine.inputs.documents import Document
from rqchat.errors import InputError, UsageError
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.conftest import Say


@pytest.fixture
def ids(recorder: Recorder, session: FakeSession, say: Say) -> list[str]:
    """Three sessions, from the oldest on."""
    found = []
    for question, answer in (
        ("Who is Ishmael?", "A sailor, aboard the Pequod."),
        ("Wie heißt die Königin?", "北京是中国的首都。"),
        ("Fix x_1 = 100%", "Use `max(x_1, y)`."),
    ):
        session.clear()
        recorder.forget()
        say(question, answer)
        assert recorder.session_id is not None
        found.append(recorder.session_id)
    return found


def found(database: Database, text: str, ids: list[str]) -> list[int]:
    """Which of `ids` a search finds, newest first."""
    return [ids.index(finding.session.id) for finding in search_sessions(database, text)]


def test_the_newest_come_first(database: Database, ids: list[str]) -> None:
    assert [session.id for session in list_sessions(database)] == ids[::-1]
    assert [session.id for session in list_sessions(database, 2)] == ids[:0:-1]
    latest = latest_session(database)
    assert latest is not None and latest.id == ids[2]
    assert count_sessions(database) == 3


def test_an_empty_store_has_none(database: Database) -> None:
    assert (list_sessions(database), latest_session(database)) == ((), None)
    with pytest.raises(InputError, match="no conversation 'x'; list them: rqchat sessions list"):
        find_session(database, "x")


def test_beginnings_of_ids_and_names_are_enough(database: Database, ids: list[str]) -> None:
    rename_session(database, ids[0], "Moby Dick")
    for reference in (ids[0], ids[0].upper(), ids[0][:7], "Moby Dick", "moby dick", "mob"):
        assert find_session(database, reference).id == ids[0]


def test_a_whole_name_goes_before_the_beginning_of_another(
    database: Database, ids: list[str]
) -> None:
    rename_session(database, ids[0], "cat")
    rename_session(database, ids[1], "catalogue")
    assert find_session(database, "cat").id == ids[0]
    with pytest.raises(InputError, match="'ca' means several conversations: .*catalogue") as caught:
        find_session(database, "ca")
    assert all(each in str(caught.value) for each in ids[:2])


@pytest.mark.parametrize("reference", ["%", "_", "", "\\", "nobody", "' OR 1=1 --"])
def test_signs_of_the_query_language_mean_nothing(
    database: Database, ids: list[str], reference: str
) -> None:
    rename_session(database, ids[0], "a name")
    with pytest.raises(InputError):
        find_session(database, reference)


def test_names_are_unique_and_can_be_taken_away(database: Database, ids: list[str]) -> None:
    rename_session(database, ids[0], " cat ")
    rename_session(database, ids[0], "cat")
    with pytest.raises(UsageError, match=f"conversation {ids[0]} is called 'CAT'"):
        rename_session(database, ids[1], "CAT")
    with pytest.raises(UsageError):
        rename_session(database, ids[1], " ")
    rename_session(database, ids[0], None)
    assert find_session(database, ids[0]).label == "Who is Ishmael?"


def test_search_finds_words_beginnings_phrases_and_signs(
    database: Database, ids: list[str]
) -> None:
    expected = {
        "ishmael": [0],
        "pequod SAILOR": [0],
        "sail": [0],
        '"aboard the pequod"': [0],
        '"the aboard"': [],
        "konigin": [1],
        "königin": [1],
        "首都": [1],
        "equo": [0],
        "max(x": [2],
        "100%": [2],
        "`max(": [2],
        "sailor queen": [],
        "-": [],
        "": [],
        '"': [],
    }
    assert {text: found(database, text, ids) for text in expected} == expected


def test_search_finds_names_of_sessions_and_files(
    database: Database, ids: list[str], say: Say
) -> None:
    rename_session(database, ids[0], "Moby Dick")
    say(UserTurn("And this?", documents=(Document("contract-2026.txt", "not searched"),)))
    assert found(database, "oby di", ids) == [0]
    assert found(database, "contract", ids) == [2]
    assert found(database, "searched", ids) == []
    rename_session(database, ids[1], "Über Ägypten")
    assert found(database, "über ä", ids) == [1]
    say(UserTurn("x (ÉTÉ) y"))
    assert len(search_sessions(database, "té)")) == 1


def test_search_shows_the_newest_place_of_a_session_once(
    database: Database, ids: list[str], say: Say
) -> None:
    say("Again a sailor", "No.")
    finding = search_sessions(database, "sailor")[0]
    assert (finding.session.id, finding.number) == (ids[2], 2)
    assert "Again a sailor" in finding.excerpt
    assert len(search_sessions(database, "a", limit=1)) == 1


@given(st.text(st.characters(), max_size=12) | st.sampled_from(["0\0", "\udcff a", '"\0"']))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_no_text_breaks_search_or_find(database: Database, text: str) -> None:
    search_sessions(database, text)
    with contextlib.suppress(InputError):
        find_session(database, text)


def test_removed_sessions_leave_no_trace(
    path: Path, database: Database, recorder: Recorder, ids: list[str], say: Say
) -> None:
    say(UserTurn("Xylophone?", documents=(Document("secret.txt", "q" * 5000),)))
    assert found(database, "xylophone", ids) == [2]
    remove_sessions(database, [ids[2]])
    assert found(database, "xylophone", ids) == []
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM contents").fetchone() == (0,)
    recorder.close()
    database.close()
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"ylophone" not in left and b"secret.txt" not in left
    assert b"Ishmael" in left


def test_what_is_removed_is_given_back_to_the_disk(
    path: Path, database: Database, recorder: Recorder, ids: list[str], say: Say
) -> None:
    incompressible = random.Random(0).randbytes(200_000).hex()
    say(UserTurn("What?", documents=(Document("a.txt", incompressible),)))
    remove_sessions(database, [ids[2]])
    recorder.close()
    database.close()
    assert path.stat().st_size < 100_000  # of 200,000 that were there besides


def test_content_that_another_session_has_stays(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    turn = UserTurn("What?", documents=(Document("a.txt", "shared"),))
    say(turn)
    first = str(recorder.session_id)
    recorder.forget()
    session.clear()
    say(turn)
    remove_sessions(database, [first])
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM contents").fetchone() == (1,)


def test_old_sessions_are_those_without_name_by_age_and_number(
    database: Database, ids: list[str]
) -> None:
    with database.write() as connection:
        for days, each in zip((30, 20, 10), ids, strict=True):
            moment_s = time.time() - days * 86_400
            connection.execute("UPDATE sessions SET updated_s = ? WHERE id = ?", (moment_s, each))

    def old(days: float | None, keep: int | None) -> list[int]:
        older_than_s = None if days is None else days * 86_400
        chosen = old_sessions(database, older_than_s=older_than_s, keep=keep)
        return [ids.index(session.id) for session in chosen]

    assert old(15, None) == [1, 0]
    assert old(None, 1) == [1, 0]
    assert old(25, 1) == [0]
    assert old(None, 0) == [2, 1, 0]
    rename_session(database, ids[0], "kept")
    assert old(15, None) == [1]
