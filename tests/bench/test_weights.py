"""`python -m rqchat.bench weights` measures what it says."""

from __future__ import annotations

import json

import pytest

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
