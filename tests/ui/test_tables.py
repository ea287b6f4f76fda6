"""Tables on a console of fixed width."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from rich.console import RenderableType

from rqchat.engine.conversation import ContextPart
from rqchat.engine.events import Done, MemoryUse, Timing, TokenCounts
from rqchat.engine.planning.devices import DeviceInfo
from rqchat.engine.planning.memory import MemoryBytes
from rqchat.engine.planning.plan import Candidate, MemoryPlan
from rqchat.ui.console import Screen
from rqchat.ui.finding import Finding
from rqchat.ui.memory_plan.plan_table import plan_table
from rqchat.ui.tables import (
    chat_status,
    context_table,
    findings_table,
    help_table,
    stats_table,
)

GIB = 2**30
WIDE = Candidate("int4", 4, 8, 131_072, MemoryBytes(18 * GIB, 3 * GIB, GIB, GIB // 2, GIB))
LONG = Candidate(
    *("int4", 4, 4, 262_144, MemoryBytes(18 * GIB, 2 * GIB, GIB, GIB // 2, GIB)),
    head_bits=8,
    read_bytes=20 * GIB,
    tokens_per_s=46.8,
)
PLAN = MemoryPlan(DeviceInfo("card", GIB, GIB, "x"), LONG, (LONG,), "Because.", 1, 280)


Draw = Callable[..., list[str]]


@pytest.fixture
def drawn(capsys: pytest.CaptureFixture[str]) -> Draw:
    """The lines that a table takes on standard output."""

    def draw(renderable: RenderableType, width: int = 90) -> list[str]:
        Screen(width=width).table(renderable)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return draw


def test_plan(drawn: Draw) -> None:
    device = DeviceInfo("a [red] card\x1b", 24 * GIB, 23 * GIB, "nvidia-smi", bandwidth=936 * 10**9)
    plan = MemoryPlan(device, LONG, (WIDE, LONG), "One.\nTwo.", 262_144, 280)
    assert drawn(plan_table(plan, "google/gemma-4-31B-it", {"int4": 23 * GIB}), width=200) == [
        "google/gemma-4-31B-it on a [red] card: 23.0 GiB free of 24.0 GiB (nvidia-smi)",
        "",
        "   weights  head  KV  context  weights  cache  rest  total  tok/s  download",
        "   int4       16   8  131,072     18.0    4.0   1.5   23.5      ?  23.0 GiB",
        ">  int4        8   4  262,144     18.0    3.0   1.5   22.5     47  23.0 GiB",
        "",
        "One.",
        "Two.",
        "",
        "GiB of memory; rest is workspace and reserve. head and KV are bits. tok/s, with a full"
        " context, at most: 936 GB/s of memory over what a token reads, 20.0 GiB in the chosen"
        " row.",
        "Prompts are read 512 tokens at a time.",
        "Loss by weights: int4: KL divergence 0.093 on the pocket model; Google's 4-bit checkpoints"
        " were trained for it.",
        "Loss by KV: relative squared error 4.1e-05 at 8 bits, 0.0095 at 4 bits (Lloyd-Max);"
        " 'rqchat verify' measures answers.",
    ]


def test_plan_keeps_every_figure_on_a_narrow_screen(drawn: Draw) -> None:
    lines = drawn(plan_table(PLAN, "m", {"int4": 23 * GIB}), width=80)
    assert ">  int4        8   4  262,144     18.0    3.0   1.5   22.5     47  23.0 GiB" in lines
    assert "is not known here (--bandwidth says it)" in " ".join(lines)


def test_a_planned_card_names_the_one_whose_speed_is_shown(drawn: Draw) -> None:
    device = dataclasses.replace(PLAN.device, bandwidth=1008 * 10**9, stands_for="RTX 4090")
    lines = drawn(plan_table(dataclasses.replace(PLAN, device=device), "m"), width=200)
    wanted = "at most: 1,008 GB/s of memory, if it is an RTX 4090 (--bandwidth for another), over"
    assert any(wanted in line for line in lines)


def test_a_narrow_screen_gets_whole_figures_in_fewer_columns(drawn: Draw) -> None:
    lines = drawn(plan_table(PLAN, "m", {"int4": 23 * GIB}), width=40)
    headings = next(line for line in lines if "context" in line)
    assert headings.split()[:3] == ["weights", "head", "KV"]
    assert headings.split()[-1] == "total"
    assert not any("…" in line for line in lines)


def test_findings(drawn: Draw) -> None:
    findings = [
        Finding("torch", "ok", "2.13.0"),
        Finding("triton", "broken", "is not installed", "pip install triton"),
    ]
    assert drawn(findings_table(findings)) == [
        "ok      torch   2.13.0",
        "broken  triton  is not installed",
        "                -> pip install triton",
    ]


def test_stats(drawn: Draw) -> None:
    timing = Timing(3.21, 0.9, 0.7, 1371.4, 80.04)
    memory = MemoryUse(planned_bytes=22 * GIB, peak_bytes=21 * GIB)
    done = Done("eos", 42, TokenCounts(1234, 264, 100, 56), timing, memory)
    assert drawn(stats_table(done)) == [
        "read    1,234 tokens (264 of pictures, 100 cached) in 0.9 s, 1,371 tokens/s",
        "wrote   56 tokens in 0.7 s, 80.0 tokens/s; stopped by eos",
        "memory  21.0 GiB at the peak, 22.0 GiB planned",
        "loaded  in 3.2 s; seed 42",
    ]


def test_help(drawn: Draw) -> None:
    topics = [("the chat", [("/exit", "leave")]), ("more", [("/set [NAME VALUE]", "change")])]
    assert drawn(help_table(topics)) == [
        "the chat",
        "  /exit              leave",
        "more",
        "  /set [NAME VALUE]  change",
    ]


def test_status_line() -> None:
    assert chat_status("pocket", PLAN, 1234, 21 * GIB, 87.4, 90) == (
        "pocket | int4 | 4-bit KV | 1,234 of 262,144 tokens (0 %) | 21.0 GiB VRAM | 87 tokens/s"
    )
    cpu = dataclasses.replace(PLAN, device=dataclasses.replace(PLAN.device, torch_name="cpu"))
    assert chat_status("pocket", cpu, 0, GIB, 0.0, 90) == (
        "pocket | int4 | 4-bit KV | 0 of 262,144 tokens (0 %) | 1.0 GiB RAM"
    )


def test_a_status_line_has_everything_in_80_columns_and_less_in_fewer() -> None:
    def line(columns: int) -> str:
        name = "google/gemma-4-31B-it"
        return chat_status(name, PLAN, 123_456, 21 * GIB, 38.2, columns)

    assert line(80) == (
        "gemma-4-31B-it | int4 | 4-bit KV | 121K of 256K (47%) | 21.0 GiB VRAM | 38 tok/s"
    )
    assert line(79) == "gemma-4-31B-it | int4 | 4-bit KV | 121K of 256K (47%) | 21.0 GiB VRAM"
    assert line(40) == "gemma-4-31B-it | 121K of 256K (47%)"
    assert all(len(line(columns)) <= columns for columns in range(36, 200))


def test_context(drawn: Draw) -> None:
    parts = [
        ContextPart("document", "book.txt", 7500),
        ContextPart("question", "Who tells it? " * 9, 2400),
        ContextPart("frame", "", 100),
    ]
    assert drawn(context_table(parts, 20_000), width=60) == [
        "document    7,500  ████████████      book.txt",
        "question    2,400  ████              Who tells it? Who tell…",
        "frame         100                    what the model's templ…",
        "10,000 of 20,000 tokens (50.0 %), 10,000 free",
    ]
