"""What of a live conversation lies in the store, at every moment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations import recorder as recorder_module
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.sessions import list_sessions
from rqchat.engine.events import Event
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture, read_picture
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import ContextLengthError
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.conftest import SAMPLING, Say, load, turns
from tests.engine.conversations.recording import record


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
    events = record(recorder, session, UserTurn("Hello"), SAMPLING)
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
    monkeypatch.setattr(recorder_module, "_GROWTH_S", 0.0)
    monkeypatch.setattr(recorder_module, "_GROWTH_SHARE", float("inf"))
    session.script = ["It ", "is ", "a cat."]
    seen = []
    for _ in record(recorder, session, UserTurn("Hello"), SAMPLING):
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
        for _ in record(recorder, session, UserTurn("Hello"), SAMPLING):
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
    events = record(recorder, session, UserTurn("Hello"), SAMPLING)
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
        ) -> Generator[Event, None, None]:
            yield from islice(super().ask(turn, sampling), 2)
            raise KeyboardInterrupt

    events = record(recorder, Breaking(), UserTurn("Hello"), SAMPLING)
    if how == "closed":
        next(events), next(events)
        events.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            list(events)
    (turn,) = turns(database, recorder.session_id)
    assert (turn.answer.strip(), turn.state) == ("It is", "interrupted")


def test_a_turn_that_is_refused_is_not_saved(
    path: Path, recorder: Recorder, session: FakeSession
) -> None:
    with pytest.raises(ContextLengthError):
        list(record(recorder, session, UserTurn("word " * 2000), SAMPLING))
    assert recorder.session_id is None
    assert not path.exists()


def test_pictures_and_documents_outlive_their_files(
    database: Database, recorder: Recorder, say: Say, tmp_path: Path
) -> None:
    file = tmp_path / "photo.jpg"
    Image.linear_gradient("L").convert("RGB").save(file)
    drawn = Image.radial_gradient("L").convert("RGB")
    turn = UserTurn(
        "What?",
        (read_picture(file), Picture("from memory", *drawn.size, drawn)),
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
