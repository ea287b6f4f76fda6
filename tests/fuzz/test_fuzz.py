"""The fuzz target on every run of the checks, for a short while; `python -m tests.fuzz` by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rqchat.errors import InputError
from tests.fuzz import runner
from tests.fuzz.runner import Tally, run, surfaces, try_case

_SECONDS = 8.0


def test_no_case_ends_in_anything_but_a_sentence() -> None:
    tallies = run(surfaces(), cases=600, seed=13, seconds=_SECONDS)
    assert [finding for tally in tallies.values() for finding in tally.findings] == []
    assert all(tally.cases for tally in tallies.values())


def test_the_runner_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CPU_LIMIT_S", 0.2)
    monkeypatch.setattr(runner, "MEMORY_LIMIT_BYTES", 0)

    def fail(made: random.Random, folder: Path) -> None:
        raise KeyError("x")

    def hang(made: random.Random, folder: Path) -> None:
        while True:
            pass

    def speak(made: random.Random, folder: Path) -> None:
        error = InputError("x")
        error.args = ("\x1b[2J",)
        raise error

    for surface, kind in ((fail, "traceback"), (hang, "hang"), (speak, "control")):
        tally = Tally()
        try_case("planted", surface, 0, 0, tally)
        assert {"memory", kind} == {finding.kind for finding in tally.findings}
