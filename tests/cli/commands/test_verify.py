"""`rqchat verify` and `rqchat calibrate` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rqchat.engine.events import Event, Notice
from rqchat.engine.measure import kv_fidelity
from rqchat.engine.measure.fidelity_record import Fidelity, FidelityRow
from rqchat.engine.settings import Settings
from tests.cli.conftest import Run

FLOOR = FidelityRow("exact, stock", 16, 0.0, 1e-12, 1e-13, 1e-11, 1.0, 12.25)
PLANNED = FidelityRow("3 bits", 3, 50.0, 0.02, 0.001, 0.3, 0.97, 12.5)
FOUND = Fidelity("pocket", "fp32", "0123", 500, FLOOR, PLANNED)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the engine was asked for, by both commands."""
    calls: list[Any] = []

    def verify(
        settings: Settings, text: str | None, tokens: int, listen: Callable[[Event], None]
    ) -> Fidelity:
        listen(Notice("reading the first 4,096"))
        calls.append((settings.kv_bits, text, tokens))
        return FOUND

    def calibrate(settings: Settings, text: str | None, tokens: int, listen: Any) -> Path:
        calls.append((settings.model, text, tokens))
        return Path("/models/m/calibration.safetensors")

    monkeypatch.setattr(kv_fidelity, "verify_model", verify)
    monkeypatch.setattr(kv_fidelity, "calibrate_model", calibrate)
    return calls


def test_a_table_and_a_sentence(run: Run, asked: list[Any], tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("Call me Ishmael.", encoding="utf-8")
    shown = run("verify", "--file", str(book), "--kv-bits", "3", "--tokens", "2000")

    assert asked == [(3, "Call me Ishmael.", 2000)]
    assert shown.code == 0
    assert "0.02" in shown.out and "97.00%" in shown.out and "…" not in shown.out
    assert shown.out.rstrip().endswith("--kv-bits 4 would be closer.")
    assert "the first 4,096" in shown.err


def test_one_object_for_programs(run: Run, asked: list[Any]) -> None:
    shown = run("verify", "--json")

    assert asked == [(None, None, 4096)]
    record = json.loads(shown.out)
    assert record["planned"]["top_1"] == 0.97 and record["verdict"] == FOUND.verdict


def test_calibrate_says_where(run: Run, asked: list[Any]) -> None:
    shown = run("calibrate", "--model", "m/m")

    assert asked == [("m/m", None, 8192)]
    assert shown.out == "/models/m/calibration.safetensors\n"


@pytest.mark.parametrize("command", ["verify", "calibrate"])
def test_too_few_tokens_are_a_usage_error(run: Run, asked: list[Any], command: str) -> None:
    assert run(command, "--tokens", "100").code == 2
    assert asked == []
