"""Kills the real program with SIGKILL, again and again, and looks for what was lost.

    python -m tests.engine.conversations.killing_program ROUNDS

`rqchat ask` and the chat on a terminal take turns to go on with one conversation of the pocket
model. Each is killed at a random moment: from the start of the process on, or while its answer
comes. Afterwards the store is whole, what was there before is there still, letter by letter, and
of what came now only the last answer may be unfinished.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rqchat.engine.conversations.records import TurnRecord
from tests.engine.conversations.killing import ROOT, Outcome, all_turns, environment
from tests.terminals import Terminal

_CLEAR = "\x15"  # Ctrl-U: a question without answer stands in the line, to be asked again
_WAIT_S = 400.0  # costs time only where something never comes; a busy machine is slow


@dataclass(frozen=True)
class Killed:
    """What was seen of a process until it was killed.

    Attributes:
        asked: the questions, in order; those that the process did not come to included.
        begun: how many answers had begun on the screen.
        answer: what was said in the end, of a process that was let live.
    """

    asked: list[str]
    begun: int
    answer: str | None = None


def kill_rounds(home: Path, rounds: int, seed: int = 0) -> Outcome:
    """Kills `rounds` processes.

    Raises:
        AssertionError: something is not in the store, is not whole, or has changed.
    """
    draw = random.Random(seed)
    path = home / "rqchat" / "conversations.db"
    took_s = _first(home)
    before = all_turns(path)
    for number in range(rounds):
        kill = draw.choice([_kill_ask, _kill_chat])
        killed = kill(home, f"Who are you? {number}", draw, took_s)
        after = all_turns(path)
        _compare(before, after, killed)
        before = after
    return Outcome(rounds, len(before), sum(turn.state != "complete" for turn in before))


def _first(home: Path) -> float:
    """Makes the conversation; the seconds of a whole process on this machine."""
    begun_s = time.monotonic()
    command = [sys.executable, "-m", "rqchat", "ask", "--quiet", "Who are you?"]
    subprocess.run(command, cwd=ROOT, env=environment(home), check=True, capture_output=True)
    return time.monotonic() - begun_s


def _compare(before: list[TurnRecord], after: list[TurnRecord], killed: Killed) -> None:
    assert after[: len(before)] == before
    added = after[len(before) :]
    assert [turn.question for turn in added] == killed.asked[: len(added)]
    assert len(added) >= killed.begun
    assert all(turn.state == "complete" for turn in added[:-1])
    if killed.answer is not None:
        assert (added[-1].state, added[-1].answer) == ("complete", killed.answer)


def _kill_ask(home: Path, question: str, draw: random.Random, took_s: float) -> Killed:
    command = [sys.executable, "-m", "rqchat", "ask", "--quiet", "--continue", question]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        shown = _until(draw, took_s, lambda: process.stdout.read(1))  # type: ignore[union-attr]
        process.kill()
        shown += process.stdout.read()
    ended = process.returncode == 0
    return Killed([question], bool(shown), shown.decode().rstrip("\n") if ended else None)


def _kill_chat(home: Path, question: str, draw: random.Random, took_s: float) -> Killed:
    """Two questions, the second of which waits for the first answer."""
    asked = [question, f"{question} again"]
    chat = Terminal(["-m", "rqchat", "-c"], home=home, XDG_DATA_HOME=str(home))
    try:
        chat.wait_for("pocket")
        chat.press(_CLEAR)
        chat.press("".join(f"{line}\r" for line in asked))
        _until(draw, took_s, lambda: _wait_for_answer(chat, asked))
        chat.process.kill()
        chat.settle(0.2)
        begun = _answers(chat, asked)
    finally:
        chat.close()
    return Killed(asked, begun)


def _answers(chat: Terminal, asked: list[str]) -> int:
    """How many of the questions have an answer below them: I am ..., or I do not know ..."""
    text = chat.text
    return sum(bool(re.search(rf"^> {re.escape(each)}\nI ", text, re.M)) for each in asked)


def _wait_for_answer(chat: Terminal, asked: list[str]) -> bytes:
    deadline_s = time.monotonic() + _WAIT_S
    while not _answers(chat, asked):
        assert time.monotonic() < deadline_s, f"no answer in:\n{chat.text}"
        chat.read(0.05)
    return b""


def _until(draw: random.Random, took_s: float, answer_begins: Callable[[], bytes]) -> bytes:
    """Waits for a random moment of a whole process, or for one soon after its answer has begun."""
    if draw.random() < 0.4:
        time.sleep(draw.uniform(0.05, 1.0) * took_s)
        return b""
    shown = answer_begins()
    time.sleep(draw.uniform(0.0, 0.4))
    return shown


def main() -> None:
    """Runs as many rounds as the command line says."""
    os.chdir(ROOT)
    with TemporaryDirectory() as folder:
        outcome = kill_rounds(Path(folder), int(sys.argv[1]))
    sys.stdout.write(f"{outcome}\n")


if __name__ == "__main__":
    main()
