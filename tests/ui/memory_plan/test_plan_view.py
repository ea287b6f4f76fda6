"""The plan at a glance, on screens of every width."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len

from rqchat.engine.planning.alternatives import Alternative, alternatives
from rqchat.engine.planning.devices import DeviceInfo, planned_card
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.memory import MemoryBytes
from rqchat.engine.planning.plan import Candidate, MemoryPlan, make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings
from rqchat.errors import DoesNotFitError
from rqchat.ui.console import Screen
from rqchat.ui.memory_plan.plan_view import PlanView

_GIB = 2**30
_TAKEN = Candidate(
    *("int4", 4, 4, 262_144, MemoryBytes(18 * _GIB, 2 * _GIB, _GIB, _GIB // 2, _GIB)),
    read_bytes=20 * _GIB,
    tokens_per_s=46.8,
)
_EXACT = replace(_TAKEN, weights="bf16", weight_bits=16, kv_bits=16, context_tokens=4096)
_CARD = DeviceInfo("a [red] card\x1b", 24 * _GIB, 23 * _GIB, "NVML", bandwidth=936 * 10**9)
_PLAN = MemoryPlan(_CARD, _TAKEN, (_EXACT, _TAKEN), "One.\nFor that context two.", 262_144, 280)
_OTHER = Alternative("12b", replace(_EXACT, tokens_per_s=90.0), "google/gemma-4-12B-it")
_WAYS = (Alternative("", _EXACT), Alternative("", _TAKEN), _OTHER)
_DOWNLOADS = {("google/gemma-4-31B-it", "int4"): 23 * _GIB}


def _lines(capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    Screen(width=width).table(PlanView(_PLAN, "google/gemma-4-31B-it", _WAYS, _DOWNLOADS))
    return capsys.readouterr().out.splitlines()


def test_a_plan_at_a_glance(capsys: pytest.CaptureFixture[str]) -> None:
    assert _lines(capsys, 100) == [
        "Gemma 4 31B on a [red] card (24 GiB, 23.0 free)",
        "",
        "                       quality                      context  tok/s  download",
        "   16-bit, KV 16       ████████  as published         4,096     47",
        "●  4-bit, KV 4         ███████▎  almost as 16 bits  262,144     47  23.0 GiB  taken",
        "   12B, 16-bit, KV 16            smaller model        4,096     90",
        "",
        "█" * 56 + "▓" * 9 + "▒▒╱╱╱░░",
        "█ weights 18.0  ▓ KV cache 3.0  ▒ workspace 0.5  ╱ reserve 1.0  ░ free 0.5 GiB",
        "Room for 262,144 tokens, about 600 pages.",
        "",
        "One.",
        "For that context two.",
        "",
        "tok/s at most, at 936 GB/s of memory",
        "--all shows every way, --json is for scripts, docs/memory.md explains",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 300])
def test_what_was_taken_is_whole_on_every_screen(
    capsys: pytest.CaptureFixture[str], width: int
) -> None:
    lines = _lines(capsys, width)
    row = next(line for line in lines if line.startswith("●"))

    assert max(map(cell_len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert row.split()[1:4] == ["4-bit,", "KV", "4"]
    assert "262,144" in row
    assert sum(line.count("weights 18.0") for line in lines) == 1
    assert any("free 0.5 GiB" in line for line in lines)
    assert ("23.0 GiB" in row) == (width >= 80)


def test_a_screen_without_its_signs_gets_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, "ascii", line_buffering=True))
    Screen(width=100).table(PlanView(_PLAN, "google/gemma-4-31B-it", _WAYS))
    said = raw.getvalue().decode("ascii")

    assert "?" not in said
    assert "\n*  4-bit, KV 4         #######|" in said
    assert f"\n{'#' * 56}{'=' * 9}++///--\n" in said


@pytest.mark.parametrize("gib", [8, 24, 48])
def test_no_way_is_shown_that_nobody_would_take(gib: int) -> None:
    """Less context, no less loss and no more speed than another row."""
    for model in known_models()[::2]:
        shape = ModelShape.from_config(model.config)
        try:
            plan = make_plan(shape, planned_card(gib * _GIB), Settings())
        except DoesNotFitError:
            continue
        ways = alternatives(plan, model.name)
        own = [way.candidate for way in ways if not way.model]

        assert 1 <= len(ways) <= 6
        assert own.count(plan.chosen) == 1
        for one in own:
            for other in own:
                assert (
                    one is other
                    or one.context_tokens > other.context_tokens
                    or one.divergence < other.divergence
                    or one.read_bytes < other.read_bytes
                )
