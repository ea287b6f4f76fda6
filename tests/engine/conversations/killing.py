"""`python -m tests.engine.conversations.killing ROUNDS`: kill -9 at random moments, nothing lost.

A process asks, answers and says on standard output what it has done; another kills it and compares
the store with what was said.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations import recorder as recorder_module
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.load import load_conversation
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.records import TurnRecord
from rqchat.engine.conversations.sessions import latest_session, list_sessions, read_turns
from rqchat.engine.inputs.documents import Document
from rqchat.engine.settings import SamplingSettings
from tests.cli.fake_session import FakeSession
from tests.engine.conversations.recording import record

ROOT = Path(__file__).resolve().parents[3]
_LONGEST_S = 0.3


@dataclass(frozen=True)
class Outcome:
    """What a number of rounds came to."""

    rounds: int
    turns: int
    unfinished: int

    def __str__(self) -> str:
        return f"{self.rounds} kills: {self.turns} turns, {self.unfinished} unfinished, none lost"


def answer_to(question: str) -> str:
    """What the writer answers: long, and another to every question."""
    return " ".join(f"{question}-{number}" for number in range(300))


def write(path: Path) -> None:
    """Goes on with the latest session of a store until it is killed."""
    recorder_module._GROWTH_S = 0.0  # writes all the time, so that a kill meets a write
    recorder_module._GROWTH_SHARE = 1.0
    recorder = Recorder(path, "chat", sys.exit)
    session = FakeSession()
    with Database.open(path) as database:
        latest = latest_session(database)
        if latest is not None:
            saved = load_conversation(database, latest)
            recorder.adopt(saved)
            session.restore(saved.messages)
    for number in range(1_000_000):
        question = f"{os.getpid()}-{number}"
        turn = UserTurn(question, documents=(Document("a.txt", question * 200),))
        session.script = re.findall(r"\S+ ?", answer_to(question))
        for count, _ in enumerate(record(recorder, session, turn, SamplingSettings())):
            if count == 0:
                _say("asked", question)
            time.sleep(0.0002)
        _say("answered", question)


def kill_rounds(path: Path, rounds: int, seed: int = 0) -> Outcome:
    """Kills the writer `rounds` times, each at another moment.

    Raises:
        AssertionError: something that the writer said is not in the store, or is not whole.
    """
    draw = random.Random(seed)
    asked: list[str] = []
    answered: set[str] = set()
    for _ in range(rounds):
        for word, question in _run_and_kill(path, draw.uniform(0.0, _LONGEST_S)):
            (asked.append if word == "asked" else answered.add)(question)
        turns = {turn.question: turn for turn in all_turns(path)}
        for question in asked:
            _check(turns[question], question in answered)
        extra = [turns[question] for question in turns.keys() - set(asked)]
        # Killed after the write and before the word: the question counts as asked from now on
        assert len(extra) <= 1 and not any(turn.state == "complete" for turn in extra)
        asked += [turn.question for turn in extra]
    unfinished = sum(turn.state != "complete" for turn in turns.values())
    return Outcome(rounds, len(turns), unfinished)


def _run_and_kill(path: Path, after_s: float) -> list[tuple[str, str]]:
    """What a writer said before it was killed, `after_s` from its first word on."""
    command = [sys.executable, "-m", "tests.engine.conversations.killing", "write", str(path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        said = (first + process.stdout.read()).decode()
    assert process.returncode == -signal.SIGKILL, f"the writer ended by itself: {said}"
    whole = said[: said.rfind("\n") + 1]
    return [(word, question) for word, question in map(str.split, whole.splitlines())]


def all_turns(path: Path) -> list[TurnRecord]:
    """Every turn of a store that is whole."""
    with Database.open(path) as database:
        with database.read() as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        return [turn for each in list_sessions(database) for turn in read_turns(database, each.id)]


def _check(turn: TurnRecord, was_answered: bool) -> None:
    whole = answer_to(turn.question)
    if was_answered:
        assert (turn.state, turn.answer) == ("complete", whole)
    else:
        assert turn.state == "unfinished" or turn.answer == whole
        assert whole.startswith(turn.answer)


def _say(word: str, question: str) -> None:
    os.write(1, f"{word} {question}\n".encode())


def environment(data: Path | None = None) -> dict[str, str]:
    """A process's, that finds the sources, with conversations below `data`."""
    more = {} if data is None else {"XDG_DATA_HOME": str(data)}
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", **more}


def main() -> None:
    """Runs what the command line says."""
    words = sys.argv[1:]
    if words[0] == "write":
        write(Path(words[1]))
        return
    with TemporaryDirectory() as folder:
        outcome = kill_rounds(Path(folder) / "conversations.db", int(words[0]))
    sys.stdout.write(f"{outcome}\n")


if __name__ == "__main__":
    main()
