"""A store in a folder of its own, and a session whose answers are scripted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.load import SavedConversation, load_conversation
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.records import TurnRecord
from rqchat.engine.conversations.sessions import find_session, read_turns
from rqchat.engine.settings import SamplingSettings
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.recording import record

Say = Callable[..., None]
SAMPLING = SamplingSettings()


def load(database: Database, reference: str | None) -> SavedConversation:
    assert reference is not None
    return load_conversation(database, find_session(database, reference))


def turns(database: Database, reference: str | None) -> tuple[TurnRecord, ...]:
    assert reference is not None
    return read_turns(database, reference)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with Database.open(path) as opened:
        yield opened


@pytest.fixture
def warnings() -> list[str]:
    """What the recorder has said."""
    return []


@pytest.fixture
def recorder(path: Path, warnings: list[str]) -> Iterator[Recorder]:
    recorder = Recorder(path, "chat", warnings.append)
    yield recorder
    recorder.close()


class Case(NamedTuple):
    """All of the fixtures, for tests that want most of them."""

    path: Path
    database: Database
    recorder: Recorder
    session: FakeSession
    say: Say
    warnings: list[str]


@pytest.fixture
def case(
    path: Path,
    database: Database,
    recorder: Recorder,
    session: FakeSession,
    say: Say,
    warnings: list[str],
) -> Case:
    return Case(path, database, recorder, session, say, warnings)


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def say(recorder: Recorder, session: FakeSession) -> Say:
    """`say("Hello")` or `say(turn)`: asks, with the recorder between."""

    def ask(turn: str | UserTurn, answer: str = "It is a cat.") -> None:
        session.script = [answer]
        asked = UserTurn(turn) if isinstance(turn, str) else turn
        list(record(recorder, session, asked, SAMPLING))

    return ask
