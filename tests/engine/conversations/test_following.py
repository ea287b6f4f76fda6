"""A conversation that goes on, is cut back, rewritten, left or copied: the store follows."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.sessions import find_session, list_sessions, remove_sessions
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.conftest import SAMPLING, Case, Say, load, turns
from tests.engine.conversations.recording import record


def test_a_saved_conversation_goes_on_in_its_session(
    path: Path, database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    say("Two")
    recorder.close()
    saved = load(database, recorder.session_id)
    later, again = Recorder(path, "chat", pytest.fail), FakeSession()
    later.adopt(saved)
    again.restore(saved.messages)
    list(record(later, again, UserTurn("Three"), SAMPLING))
    later.close()
    assert [turn.question for turn in turns(database, saved.record.id)] == ["One", "Two", "Three"]
    assert load(database, saved.record.id).messages == again.messages
    assert len(list_sessions(database)) == 1


def test_a_question_without_answer_is_asked_again_in_its_place(
    path: Path, database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    dead = record(recorder, session, UserTurn("Two"), SAMPLING)
    next(dead)
    saved = load(database, recorder.session_id)
    assert saved.pending == UserTurn("Two")
    later = Recorder(path, "chat", pytest.fail)
    later.adopt(saved)
    session.restore(saved.messages)
    list(record(later, session, UserTurn("Two"), SAMPLING))
    later.close()
    assert [(turn.question, turn.state) for turn in turns(database, saved.record.id)] == [
        ("One", "complete"),
        ("Two", "complete"),
    ]
    dead.close()


def test_two_that_go_on_with_one_session_part_ways(case: Case) -> None:
    path, database, recorder, session, say, warnings = case
    say("One")
    first_id = recorder.session_id
    saved = load(database, first_id)
    other, there = Recorder(path, "chat", pytest.fail), FakeSession()
    other.adopt(saved)
    there.restore(saved.messages)
    list(record(other, there, UserTurn("There"), SAMPLING))
    say("Here")
    assert warnings == [
        f"conversation {first_id} went on elsewhere; this one is {recorder.session_id}"
    ]
    assert [turn.question for turn in turns(database, first_id)] == ["One", "There"]
    assert [turn.question for turn in turns(database, recorder.session_id)] == ["One", "Here"]
    assert find_session(database, str(recorder.session_id)).forked_from == first_id
    other.close()


def test_a_session_removed_meanwhile_is_saved_anew(
    database: Database, recorder: Recorder, say: Say
) -> None:
    say("One")
    remove_sessions(database, [str(recorder.session_id)])
    say("Two")
    assert [turn.question for turn in turns(database, recorder.session_id)] == ["One", "Two"]


def test_the_store_follows_what_was_taken_back(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    for question in ("One", "Two", "Three"):
        say(question)
    session.restore(session.messages[:2])
    recorder.follow(session)
    assert [turn.question for turn in turns(database, recorder.session_id)] == ["One"]
    say("Four")
    assert [turn.question for turn in turns(database, recorder.session_id)] == ["One", "Four"]
    assert load(database, recorder.session_id).messages == session.messages


def test_the_store_follows_an_answer_that_went_on(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    before = recorder.session_id
    session.restore((session.messages[0], Message("assistant", "It is a cat. Black.")))
    recorder.follow(session)
    assert recorder.session_id == before
    (turn,) = turns(database, before)
    assert turn.answer == "It is a cat. Black."
    assert turn.receipt.tokens is not None


@pytest.mark.parametrize("earlier", [0, 1])
def test_an_answer_continued_or_made_anew_takes_the_place_of_the_first(
    database: Database, recorder: Recorder, session: FakeSession, say: Say, earlier: int
) -> None:
    for question in ("Zero", "One")[1 - earlier :]:
        say(question)
    before, kept = recorder.session_id, session.messages[: 2 * earlier]
    session.restore(kept)
    recorder.follow(session)
    say("One", "A dog.")
    assert [turn.answer for turn in turns(database, before)][earlier:] == ["A dog."]
    session.restore(kept)
    session.script = [" Brown."]
    list(record(recorder, session, UserTurn("One"), SAMPLING, begun="A dog."))
    last = turns(database, before)[-1]
    assert (last.answer, last.receipt.begun) == ("A dog. Brown.", "A dog.")
    assert load(database, before).messages == session.messages
    assert len(list_sessions(database)) == 1


def test_a_rewritten_conversation_leaves_the_old_one_as_it_was(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    say("Two")
    before = recorder.session_id
    session.restore((Message("user", "In short"), Message("assistant", "Cats.")))
    recorder.follow(session)
    say("Three")
    assert [turn.question for turn in turns(database, before)] == ["One", "Two"]
    assert [turn.question for turn in turns(database, recorder.session_id)] == [
        "In short",
        "Three",
    ]


def test_a_cleared_conversation_stays_saved(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    before = recorder.session_id
    session.clear()
    recorder.follow(session)
    say("Two")
    assert [turn.question for turn in turns(database, before)] == ["One"]
    assert [turn.question for turn in turns(database, recorder.session_id)] == ["Two"]


def test_what_was_taken_back_comes_again_with_its_receipt(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    for question in ("One", "Two", "Three"):
        say(question)
    before, whole = turns(database, recorder.session_id), session.messages
    for messages in (whole[:2], whole, (), whole):
        session.restore(messages)
        recorder.follow(session)
    after = turns(database, recorder.session_id)
    assert [turn.receipt for turn in after] == [turn.receipt for turn in before]
    assert len(list_sessions(database)) == 1
    assert load(database, recorder.session_id).messages == whole


def test_a_retry_that_brings_nothing_leaves_the_answer_there_was(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    say("Two")
    before, whole = turns(database, recorder.session_id), session.messages
    session.restore(whole[:2])
    session.script = [signal.SIGUSR1, "never"]
    previous = signal.signal(signal.SIGUSR1, lambda *_: session.interrupt())
    list(record(recorder, session, UserTurn("Two"), SAMPLING))
    signal.signal(signal.SIGUSR1, previous)
    session.restore(whole)
    recorder.follow(session)
    after = turns(database, recorder.session_id)
    assert [(turn.answer, turn.state, turn.receipt) for turn in after] == [
        (turn.answer, turn.state, turn.receipt) for turn in before
    ]


def test_conversations_that_are_left_and_taken_up_again_keep_their_sessions(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    first, there = str(recorder.session_id), session.messages
    recorder.forget()
    session.clear()
    say("Two")
    second, here = str(recorder.session_id), session.messages
    for messages, expected in ((there, first), (here, second), (there, first)):
        session.restore(messages)
        recorder.follow(session)
        assert recorder.session_id == expected
    say("Three")
    assert [turn.question for turn in turns(database, first)] == ["One", "Three"]
    assert len(list_sessions(database)) == 2


def test_a_fork_leaves_the_original(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    before = recorder.session_id
    after = recorder.fork()
    say("Two")
    assert [turn.question for turn in turns(database, before)] == ["One"]
    assert [turn.question for turn in turns(database, after)] == ["One", "Two"]
    assert find_session(database, str(after)).forked_from == before
    session.restore(session.messages[:2])
    recorder.follow(session)
    assert recorder.session_id == after
