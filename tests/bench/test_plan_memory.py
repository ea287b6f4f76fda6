"""The memory benchmark: its meter, its random weights, its filled contexts, and its plan."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rqchat.bench import memory_case, plan_memory
from rqchat.bench.load_case import load, write
from rqchat.bench.memory_case import POCKET_FOLDER, Case, Failure, Outcome, measure
from rqchat.bench.meter import TensorMeter
from rqchat.engine.settings import WEIGHTS
from tests.helpers import TINY_CONFIG
from tests.tape import TapeRecorder, decodes_on_device

pytestmark = pytest.mark.slow
_TINY = "random, tiny"


def _tiny_config(model: str) -> dict[str, object]:
    """The 31B's structure with the pocket model's tokenizer and more words than that knows."""
    own = json.loads((POCKET_FOLDER / "config.json").read_text(encoding="utf-8"))
    sizes = {"vocab_size": own["text_config"]["vocab_size"] + 1000, "intermediate_size": 128}
    # One layer of each kind: the meter looks at every tensor, which takes seconds with more
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    text = {**TINY_CONFIG["text_config"], **sizes, **layers}
    vision = {**own["vision_config"], "num_hidden_layers": 1}
    return {**TINY_CONFIG, "vision_config": vision, "text_config": text}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that costs nothing, in the place of the 31B."""
    for module in (plan_memory, memory_case):
        monkeypatch.setattr(module, "config_of", _tiny_config)
    monkeypatch.setattr("rqchat.bench.load_case.config_of", _tiny_config)
    monkeypatch.setattr(memory_case, "_FIRST_TOKENS", 2)
    monkeypatch.setattr(memory_case, "_TIMED_TOKENS", 3)
    return _TINY


def _outcomes(case: Case) -> list[Outcome]:
    found = list(measure(case))
    assert not [each for each in found if isinstance(each, Failure)], found
    return [each for each in found if isinstance(each, Outcome)]


def test_the_meter_counts_what_lives_and_keeps_the_peak() -> None:
    given = torch.zeros(1000)
    with TensorMeter() as meter:
        meter.count([given, given.view(10, 100)])
        first = torch.zeros(250)
        second = first + 1
        del first
        third = second.view(50, 5)
        assert meter.live_bytes == 4000 + 1000
        assert meter.peak_bytes == 4000 + 2000
        meter.restart()
        del second, third
        assert meter.live_bytes == 4000
        assert len(meter.ignoring(torch.zeros)(100)) == 100
    assert meter.peak_bytes == 5000


def test_the_plan_is_not_exceeded_and_within_2_percent() -> None:
    (found,) = _outcomes(Case("pocket", None, (3072,), device="cpu"))

    assert found.prompt_tokens > 2700
    assert 512 < found.read_tokens < 2048
    assert found.measured_bytes <= found.planned_bytes <= 1.02 * found.measured_bytes


def test_a_filled_context_occupies_what_a_read_one_does(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(tiny, "bf16", (1600,), device="cpu")
    (filled,) = _outcomes(case)
    monkeypatch.setattr(memory_case, "_prefill", lambda session, prompt: 0)
    (read,) = _outcomes(case)

    assert filled.read_tokens < read.read_tokens == read.prompt_tokens == filled.prompt_tokens
    # Up to what a picture's position leaves of the last page before it
    assert filled.measured_bytes == pytest.approx(read.measured_bytes, rel=2e-3)


@pytest.mark.parametrize("weights", ["int8", "int4"])  # others below
def test_random_weights_answer_on_every_kind_of_layer(tiny: str, weights: str) -> None:
    (found,) = _outcomes(Case(tiny, weights, (448,), kv_bits=4, device="cpu"))

    assert (found.weights, found.kv_bits, found.context_tokens) == (weights, 4, 448)
    assert min(found.decode_tokens_per_s, found.prefill_tokens_per_s, found.placed_s) > 0
    assert found.load_peak_bytes > 0


def test_contexts_follow_each_other_over_one_load(tiny: str) -> None:
    first, second = _outcomes(Case(tiny, "int2", (448, 576), device="cpu"))

    assert (first.context_tokens, second.context_tokens) == (448, 576)
    assert second.measured_bytes > first.measured_bytes
    assert first.placed_s == second.placed_s


def test_decoding_is_timed_with_captured_steps_and_without(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decodes_on_device(monkeypatch)
    monkeypatch.setattr("rqchat.engine.session.recorder_for", lambda device: TapeRecorder())

    (found,) = _outcomes(Case(tiny, "bf16", (448,), kv_bits=4, device="cpu"))

    assert min(found.decode_tokens_per_s, found.plain_tokens_per_s) > 0


def test_what_does_not_fit_says_so_and_does_not_stop_the_others(tiny: str) -> None:
    big, small = 2**30, 2**20
    (first, second) = measure(Case(tiny, None, (448, 1024), cap_bytes=small, device="cpu"))
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert "are missing" in first.error

    assert _outcomes(Case(tiny, None, (448,), cap_bytes=big, device="cpu"))


def test_the_loader_is_timed_on_a_checkpoint_as_the_hub_has_it(tiny: str, tmp_path: Path) -> None:
    write(tmp_path, tiny)

    found = load(tmp_path, tiny, cold=hasattr(os, "posix_fadvise"))

    files = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert found.file_bytes == files
    assert (found.link_bytes_per_s == 0) is not torch.cuda.is_available()
    assert found.share > 0 and found.fresh_bytes_per_s > 0


def test_the_table_has_a_row_for_each_context_whatever_comes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        Case("pocket", None, (512,), device="cpu"),
        Case("pocket", "int8", (512, 1024), cap_bytes=2**20, device="cpu"),
    ]
    monkeypatch.setattr(plan_memory, "_cpu_cases", lambda contexts: cases)
    monkeypatch.setattr(plan_memory, "_gpu_cases", lambda model, contexts: cases)
    monkeypatch.setattr(plan_memory, "_has_space", lambda place, need: False)

    def lines(command: list[str], clock: Any) -> Iterator[str]:
        case = Case(**json.loads(command[-1]))  # here, as a child takes seconds to import torch
        yield from (json.dumps(dataclasses.asdict(each)) for each in measure(case))

    monkeypatch.setattr(plan_memory, "_lines", lines)
    report = tmp_path / "new" / "memory.md"

    records = plan_memory.run_memory(report)

    rows = [line for line in report.read_text().splitlines() if line.startswith("| pocket")]
    assert len(rows) == 3
    assert [row.count("|") for row in rows] == [len(plan_memory._HEADINGS) + 1] * 3
    assert records[0]["measured_bytes"] > 0
    assert all("are missing" in record["error"] for record in records[1:3])
    assert "has no room" in records[3]["load"]["error"]
    assert "Loading was not timed" in report.read_text()


def test_a_spent_budget_ends_the_run_and_names_what_is_left_out(tmp_path: Path) -> None:
    records = plan_memory.run_memory(tmp_path / "memory.md", budget_s=0)

    assert {record.get("error") or record["load"]["error"] for record in records} == {
        "left out: the time is over"
    }


def test_a_child_that_hangs_or_dies_leaves_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def output_of(code: str, budget_s: float | None = None) -> tuple[list[str], str]:
        lines: list[str] = []
        with pytest.raises(plan_memory._EndedError) as ended:
            for line in plan_memory._lines(
                [sys.executable, "-c", code], plan_memory._Clock(budget_s)
            ):
                lines.append(line.strip())
        return lines, str(ended.value)

    monkeypatch.setattr(plan_memory, "_MOST_S", 2.0)
    dies = "print('a library says hello'); print('{}', flush=True); raise SystemExit('no room')"
    assert output_of(dies) == (["{}"], "no room")
    hangs = "import time; print('{}', flush=True); time.sleep(600)"
    assert output_of(hangs, 100.0) == (["{}"], "ended: its time is over")
    is_killed = "import os; print('{}', flush=True); os.kill(os.getpid(), 9)"
    assert output_of(is_killed) == (["{}"], "killed, as the system does where memory runs out")


def test_cases_for_a_gpu_name_every_rung_and_both_smaller_cards() -> None:
    cases = list(plan_memory._gpu_cases("google/gemma-4-31B-it", ()))

    assert {case.weights for case in cases if not case.cap_bytes} == set(WEIGHTS)
    assert {case.cap_bytes // 2**30 for case in cases} == {0, 16, 24}
    assert {case.contexts for case in cases} == {(8192, 65_536, 262_144)}
    assert dataclasses.replace(cases[0], contexts=()).device == "auto"
