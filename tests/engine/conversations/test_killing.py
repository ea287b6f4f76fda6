"""A few rounds of `killing`; hundreds are run by hand."""

from __future__ import annotations

from pathlib import Path

from tests.engine.conversations.killing import kill_rounds


def test_kill_9_loses_nothing_but_the_unfinished_answer(tmp_path: Path) -> None:
    outcome = kill_rounds(tmp_path / "conversations.db", rounds=8)
    assert outcome.rounds == 8
    assert outcome.turns >= outcome.unfinished >= 1
