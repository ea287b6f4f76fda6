"""How long a large store of conversations takes to list and to search.

The store is filled through what fills a user's; the commands are processes of their own.
"""

from __future__ import annotations

import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rqchat.bench.speed import measure, report, wall_s
from rqchat.engine.conversation import UserTurn
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.receipt import Receipt
from rqchat.engine.conversations.rows import Kept, SessionRows
from rqchat.engine.conversations.search import search_sessions
from rqchat.engine.conversations.sessions import list_sessions
from rqchat.engine.settings import SamplingSettings

__all__ = ["fill_store", "run_store"]

_TURNS = 4
_QUESTION_WORDS = 12
_ANSWER_WORDS = 80
_VOCABULARY = 20_000


def run_store(sessions: int, runs: int) -> None:
    """Measure and print; raises CalledProcessError when rqchat fails."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder
        path = Path(folder) / "rqchat" / "conversations.db"
        fill_store(path, sessions)
        commands = {
            "list": ["sessions", "list"],
            "list --all --json": ["sessions", "list", "--all", "--json"],
            "search, in every conversation": ["sessions", "search", "every"],
            "search, two words and a beginning": ["sessions", "search", "word17", "word2"],
            "search, part of a word": ["sessions", "search", "ord19999"],
            "show": ["sessions", "show", "needle"],
        }
        figures = []
        for name, arguments in commands.items():
            figures.append(measure(name, "s", runs, partial(wall_s, arguments)))
            figures.append(measure("  of it CPU", "s", runs, partial(_cpu_s, arguments)))
        with Database.open(path) as database:
            alone: dict[str, Callable[[], object]] = {
                "  list alone": partial(list_sessions, database, 20),
                "  search for two words alone": partial(search_sessions, database, "word17 word2"),
                "  search for a part alone": partial(search_sessions, database, "ord19999"),
            }
            for name, once in alone.items():
                figures.append(measure(name, "s", runs, partial(_own_cpu_s, once)))
        report(figures, sessions=sessions, turns=_TURNS, bytes=path.stat().st_size, runs=runs)


def fill_store(path: Path, sessions: int) -> None:
    """Conversations of four turns of made-up words; the last one is called `needle`."""
    draw = random.Random(0)
    receipt = _receipt()
    with Database.open(path) as database:
        with database.read() as connection:
            # Nothing of this store has to outlive a crash.
            connection.execute("PRAGMA synchronous = OFF")
        for _ in range(sessions):
            rows = SessionRows("chat").brought_to(
                [_turn(draw, receipt) for _ in range(_TURNS)], database
            )
        with database.write() as connection:
            connection.execute(
                "UPDATE sessions SET name = 'needle' WHERE id = ?", (rows.session_id,)
            )


def _cpu_s(arguments: list[str]) -> float:
    """Processor seconds of `rqchat`, which other programs on the machine hardly change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall_s(arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _own_cpu_s(once: Callable[[], object]) -> float:
    """Seconds of a core that `once` takes in this process, which has started long ago."""
    begun_s = time.process_time()
    once()
    return time.process_time() - begun_s


def _turn(draw: random.Random, receipt: Receipt) -> Kept:
    def words(count: int) -> str:
        # The rank of a word decides how often it comes, roughly as in a language (Zipf's law)
        ranks = (int(_VOCABULARY ** draw.random()) for _ in range(count))
        return " ".join(f"word{rank}" for rank in ranks)

    turn = UserTurn(f"every {words(_QUESTION_WORDS)}")
    return Kept(turn, 0.0, receipt, answer=words(_ANSWER_WORDS), state="complete")


def _receipt() -> Receipt:
    return Receipt(
        rqchat="0",
        torch="0",
        model="pocket",
        revision="sha256:0123456789abcdef",
        device="CPU",
        weights="fp32",
        head_bits=16,
        kv_bits=4,
        sliding_bits=16,
        kv_mode="aligned",
        context_tokens=32_768,
        image_tokens=280,
        system=None,
        thinking=False,
        sampling=SamplingSettings(temperature=0.0, seed=0),
    )
