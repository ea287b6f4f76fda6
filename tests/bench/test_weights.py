"""`python -m rqchat.bench weights` measures what it says."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch

from rqchat.bench import weights


def test_every_method_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "_SHAPES_31B", (("down", 5376, 21504),))
    monkeypatch.setattr(weights, "_CPU_ROWS", (1, 64))
    monkeypatch.setattr(weights, "_ROWS", (1, 64))
    monkeypatch.setattr(weights, "_WARM_UPS", 1)
    monkeypatch.setattr(weights, "_RUNS", 3)

    weights.main()

    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["copy_gb_per_s"] > 0
    measured = {(one["method"], one["layer"], one["rows"]) for one in record["figures"]}
    wanted = [("bf16", "down"), ("bf16", "head"), ("int4", "down"), ("int2", "down")]
    wanted += [("int4", "experts in"), ("int2", "experts out")]
    assert measured >= {(*one, rows) for one in (*wanted, ("int8", "head")) for rows in (1, 64)}
    assert all(one["microseconds"] > 0 and one["share"] > 0 for one in record["figures"])


class _Graph:
    """Stands for a CUDA graph, and counts replays."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: _Event) -> float:
        return 6.0  # milliseconds


def test_on_a_gpu_replays_are_timed_and_not_calls_from_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, calls = _Graph(), [0, 0, 0]
    fakes: dict[str, Any] = {"CUDAGraph": lambda: graph, "graph": nullcontext, "Event": _Event}
    for name, fake in (fakes | {"synchronize": lambda: None}).items():
        monkeypatch.setattr(torch.cuda, name, fake)

    def run(index: int) -> None:
        calls[index] += 1

    seconds = weights._seconds([partial(run, index) for index in range(3)], torch.device("cuda"))

    assert seconds == pytest.approx(0.002)  # a third of a replay
    assert calls == [2, 2, 2]  # to warm up, and in the capture
    assert graph.replays >= weights._RUNS
