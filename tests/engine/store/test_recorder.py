"""What of a live conversation lies in the store, at every moment and after every mishap."""

from __future__ import annotations

import dataclasses
import signal
import sqlite3
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.documents import Document
from rqchat.engine.events import Event
from rqchat.engine.images import Picture, read_picture
from rqchat.engine.settings import SamplingSettings
from rqchat.engine.store import growth
from rqchat.engine.store.catalog import find_session, list_sessions, read_turns, remove_sessions
from rqchat.engine.store.database import Database
from rqchat.engine.store.receipt import Receipt
from rqchat.engine.store.recorder import Recorder
from rqchat.engine.store.records import TurnRecord
from rqchat.engine.store.saved import SavedConversation, load_conversation
from rqchat.errors import ContextLengthError
from tests.cli.conftest import FakeSession

from .conftest import Say

SAMPLING = SamplingSettings()


def load(database: Database, reference: str | None) -> SavedConversation:
    assert reference is not None
    return load_conversation(database, find_session(database, reference))


def turns(database: Database, reference: str | None) -> tuple[TurnRecord, ...]:
    assert reference is not None
    return read_turns(database, reference)


def test_a_turn_is_saved_whole(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    session.thoughts = ["Four legs.", " A tail."]
    session.system = "Be brief."
    say("What  is\nit?")
    (record,) = list_sessions(database)
    assert record.id == recorder.session_id
    assert (record.title, record.turns, record.model) == ("What is it?", 1, "pocket")
    (turn,) = turns(database, record.id)
    assert (turn.number, turn.question, turn.answer) == (1, "What  is\nit?", "It is a cat.")
    assert (turn.state, turn.thought) == ("complete", "Four legs. A tail.")
    receipt = turn.receipt
    assert (receipt.weights, receipt.kv_bits, receipt.kv_mode) == ("bf16", 4, "aligned")
    assert (receipt.system, receipt.stop_reason) == ("Be brief.", "eos")
    # Neither temperature nor seed was given: what was used stands there
    assert receipt.sampling == dataclasses.replace(SAMPLING, temperature=0.0, seed=42)
    assert receipt.tokens is not None and receipt.tokens.output == 4
    assert Receipt.from_json(receipt.to_json()) == receipt


def test_thoughts_are_no_part_of_a_loaded_conversation(
    database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    session.thoughts = ["Secret."]
    say("Hello")
    assert load(database, recorder.session_id).messages == session.messages


def test_the_question_is_there_before_the_model_starts(
    database: Database, recorder: Recorder, session: FakeSession
) -> None:
    events = recorder.record(session, UserTurn("Hello"), SAMPLING)
    next(events)
    (turn,) = turns(database, recorder.session_id)
    assert (turn.question, turn.answer, turn.state) == ("Hello", "", "unfinished")
    assert turn.receipt.tokens is None
    assert load(database, recorder.session_id).messages == ()
    assert load(database, recorder.session_id).pending == UserTurn("Hello")


def test_the_answer_is_there_while_it_grows(
    database: Database,
    recorder: Recorder,
    session: FakeSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(growth, "_GROWTH_S", 0.0)
    monkeypatch.setattr(growth, "_GROWTH_SHARE", float("inf"))
    session.script = ["It ", "is ", "a cat."]
    seen = []
    for _ in recorder.record(session, UserTurn("Hello"), SAMPLING):
        (turn,) = turns(database, recorder.session_id)
        seen.append((turn.answer, turn.state))
    assert seen[:4] == [("", "unfinished")] + [
        (text, "unfinished") for text in ("It", "It is", "It is a cat.")
    ]
    (turn,) = turns(database, recorder.session_id)
    assert turn.state == "complete"


def test_growth_is_written_twice_a_second_at_most_and_never_for_long(
    recorder: Recorder, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which a token takes 10 ms and each write `cost_s`."""
    clock = {"s": 0.0, "writes": 0, "cost_s": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["s"])
    monkeypatch.setattr(Recorder, "_flush", lambda self: _written(clock))
    for cost_s, most_writes in ((0.001, 22), (0.1, 8)):
        clock |= {"cost_s": cost_s, "writes": 0}
        session.script = ["word "] * 1000
        for _ in recorder.record(session, UserTurn("Hello"), SAMPLING):
            clock["s"] += 0.01
        assert most_writes - 3 <= clock["writes"] <= most_writes


def _written(clock: dict[str, float]) -> float:
    clock["writes"] += 1
    clock["s"] += clock["cost_s"]
    return clock["cost_s"]


def test_an_interrupted_answer_is_kept_and_marked(
    database: Database, recorder: Recorder, session: FakeSession
) -> None:
    session.script = ["It is ", "a cat."]
    events = recorder.record(session, UserTurn("Hello"), SAMPLING)
    for _, event in zip(range(2), events, strict=False):
        if "It is" in str(event):
            session.interrupt()
    list(events)
    (turn,) = turns(database, recorder.session_id)
    assert (turn.answer, turn.state) == ("It is ", "interrupted")
    assert load(database, recorder.session_id).messages[-1].interrupted


@pytest.mark.parametrize("how", ["closed", "failed"])
def test_an_answer_that_breaks_off_is_kept_and_marked(
    database: Database, recorder: Recorder, how: str
) -> None:
    class Breaking(FakeSession):
        def ask(
            self,
            turn: UserTurn,
            sampling: SamplingSettings,
            *,
            schema: str | None = None,
            begun: str = "",
        ) -> Iterator[Event]:
            yield from islice(super().ask(turn, sampling), 2)
            raise KeyboardInterrupt

    events = recorder.record(Breaking(), UserTurn("Hello"), SAMPLING)
    if how == "closed":
        next(events), next(events)
        events.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(KeyboardInterrupt):
            list(events)
    (turn,) = turns(database, recorder.session_id)
    assert (turn.answer.strip(), turn.state) == ("It is", "interrupted")


def test_a_turn_that_is_refused_is_not_saved(
    path: Path, recorder: Recorder, session: FakeSession
) -> None:
    with pytest.raises(ContextLengthError):
        list(recorder.record(session, UserTurn("word " * 2000), SAMPLING))
    assert recorder.session_id is None
    assert not path.exists()


def test_pictures_and_documents_outlive_their_files(
    database: Database, recorder: Recorder, say: Say, tmp_path: Path
) -> None:
    file = tmp_path / "photo.jpg"
    Image.linear_gradient("L").convert("RGB").save(file)
    made = Image.radial_gradient("L").convert("RGB")
    turn = UserTurn(
        "What?",
        (read_picture(file), Picture("from memory", *made.size, made)),
        (Document("book.txt", "Call me Ishmael.\n\u2028"), Document("empty\udcff", "x" * 100_000)),
    )
    pixels = [picture.image.tobytes() for picture in turn.pictures]
    file.unlink()
    say(turn)
    say(turn)
    saved = load(database, recorder.session_id)
    for loaded in (saved.messages[0], saved.messages[2]):
        assert [picture.image.tobytes() for picture in loaded.pictures] == pixels
        assert [picture.name for picture in loaded.pictures] == [str(file), "from memory"]
        assert [each.text for each in loaded.documents] == [each.text for each in turn.documents]
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM contents").fetchone() == (4,)
        assert connection.execute("SELECT count(*) FROM attachments").fetchone() == (8,)


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
    list(later.record(again, UserTurn("Three"), SAMPLING))
    later.close()
    assert [turn.question for turn in turns(database, saved.record.id)] == ["One", "Two", "Three"]
    assert load(database, saved.record.id).messages == again.messages
    assert len(list_sessions(database)) == 1


def test_a_question_without_answer_is_asked_again_in_its_place(
    path: Path, database: Database, recorder: Recorder, session: FakeSession, say: Say
) -> None:
    say("One")
    dead = recorder.record(session, UserTurn("Two"), SAMPLING)
    next(dead)
    saved = load(database, recorder.session_id)
    assert saved.pending == UserTurn("Two")
    later = Recorder(path, "chat", pytest.fail)
    later.adopt(saved)
    session.restore(saved.messages)
    list(later.record(session, UserTurn("Two"), SAMPLING))
    later.close()
    assert [(turn.question, turn.state) for turn in turns(database, saved.record.id)] == [
        ("One", "complete"),
        ("Two", "complete"),
    ]
    dead.close()  # type: ignore[attr-defined]


def test_two_that_go_on_with_one_session_part_ways(
    path: Path,
    database: Database,
    recorder: Recorder,
    session: FakeSession,
    say: Say,
    warnings: list[str],
) -> None:
    say("One")
    first_id = recorder.session_id
    saved = load(database, first_id)
    other, there = Recorder(path, "chat", pytest.fail), FakeSession()
    other.adopt(saved)
    there.restore(saved.messages)
    list(other.record(there, UserTurn("There"), SAMPLING))
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
    list(recorder.record(session, UserTurn("One"), SAMPLING, begun="A dog."))
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
    list(recorder.record(session, UserTurn("Two"), SAMPLING))
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


def test_without_a_path_nothing_is_written_until_one_is_given(
    path: Path, session: FakeSession
) -> None:
    recorder = Recorder(None, "chat", pytest.fail)
    list(recorder.record(session, UserTurn("One"), SAMPLING))
    assert (recorder.session_id, path.parent.exists()) == (None, False)
    assert recorder.keep_in(path) == recorder.session_id
    recorder.close()
    with Database.open(path) as database:
        assert load(database, recorder.session_id).messages == session.messages


def test_a_full_disk_is_told_once_and_caught_up_with(
    path: Path,
    database: Database,
    recorder: Recorder,
    session: FakeSession,
    say: Say,
    warnings: list[str],
) -> None:
    say("One")
    assert recorder._database is not None
    limit = recorder._database._connection.execute
    pages = limit("PRAGMA page_count").fetchone()[0]
    limit(f"PRAGMA max_page_count = {pages}")
    incompressible = "".join(chr(0x4E00 + (i * i * 7919) % 20_000) for i in range(50_000))
    say(UserTurn("Two", documents=(Document("big.txt", incompressible),)))
    say("Three")
    assert len(warnings) == 1
    assert warnings[0].endswith("(database or disk is full); make room on the disk")
    assert [turn.question for turn in turns(database, recorder.session_id)] == ["One"]
    limit(f"PRAGMA max_page_count = {pages + 10_000}")
    say("Four")
    assert load(database, recorder.session_id).messages == session.messages
    assert [turn.state for turn in turns(database, recorder.session_id)] == ["complete"] * 4
    assert len(warnings) == 1


def test_a_store_that_cannot_be_opened_is_told_once(tmp_path: Path, session: FakeSession) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    said: list[str] = []
    recorder = Recorder(tmp_path / "data" / "sessions.db", "chat", said.append)
    for question in ("One", "Two"):
        events = list(recorder.record(session, UserTurn(question), SAMPLING))
        assert len(events) == 4
    recorder.close()
    assert len(said) == 1 and said[0].startswith("this conversation is not being saved: ")


def test_a_store_damaged_meanwhile_is_told_once(
    path: Path, recorder: Recorder, session: FakeSession, say: Say, warnings: list[str]
) -> None:
    say("One")
    recorder.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    say("Two")
    say("Three")
    assert len(warnings) == 1 and "is damaged" in warnings[0]
    assert len(session.messages) == 6


def test_a_store_that_is_busy_for_long_is_caught_up_with(
    path: Path,
    database: Database,
    recorder: Recorder,
    session: FakeSession,
    say: Say,
    warnings: list[str],
) -> None:
    say("One")
    assert recorder._database is not None
    recorder._database._connection.execute("PRAGMA busy_timeout = 1")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        say("Two")
        other.execute("ROLLBACK")
    other.close()
    assert len(warnings) == 1 and "is being written by another program" in warnings[0]
    recorder.close()
    assert load(database, recorder.session_id).messages == session.messages


def test_the_signal_of_a_file_too_large_does_not_end_the_process() -> None:
    """Python ignores it, so that a quota shows as an error; `Recorder` relies on that."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
