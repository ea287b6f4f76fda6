"""The bench of the kernels: it runs anywhere, and times nothing that is wrong."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from rotorquant.bench import kernels, kernels_layer, tune
from rotorquant.bench.__main__ import main
from rotorquant.bench.kernels_timing import Span
from rotorquant.ops import dispatch, launches

SMALL = ["kernels", "--device", "cpu", "--tokens", "70", "--repeats", "1"]


def test_a_run_on_a_cpu_says_so_and_counts_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--only", "planar 4", "turbo, best 3", "bf16 K+V, SDPA", "int8 ring"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert any("No GPU" in line for line in lines)
    report = json.loads(last)
    assert report["device"] == "cpu"
    assert not report["kernels"]
    found = {(timing["op"], timing["way"]): timing["nbytes"] for timing in report["timings"]}
    # Of 70 tokens 8 come first and at least 17 last; of the others, whole pages of 8 are packed
    # before the last token comes. 4 heads of 512 values, 4 bits or 3 with a float16.
    assert found["decode", "planar 4"] == 4 * (40 * (256 + 2) + 30 * 1024)
    assert found["decode", "turbo, best 3"] == 2 * 4 * (40 * (192 + 2) + 30 * 1024)
    assert found["decode", "bf16 K+V, SDPA"] == 2 * 4 * 70 * 1024
    assert found["quantize", "planar 4"] == 70 * 4 * (1024 + 256 + 2)
    assert found["sliding", "int8 ring"] == 2 * 16 * 1024 * (256 + 2)
    assert {"commit", "date", "command", "driver", "torch", "triton"} <= report.keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_every_way_to_store_is_right_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: tensor.is_cuda)
    with torch.inference_mode():
        (line,) = kernels.gate(torch.device("cuda"), None)
    assert "give the attention of the formula" in line


def test_prefill_is_told_as_a_share_of_bf16() -> None:
    span = Span(1.0, 1.0, 1.0)
    timings = [
        kernels.Timing("prefill 512", way, 32_768, 1, 0.0, 0.0, speed, span)
        for way, speed in (("bf16 K+V", 200.0), ("aligned 4", 150.0), ("iso 4", 90.0))
    ]
    (line,) = kernels._figures(timings)
    assert line == "prefill 512, aligned 4, 32768 tokens: 75% of bf16 K+V"
    assert kernels._figures(timings[1:]) == []


def test_launches_are_not_tuned_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--device", "cpu"]) == 1
    assert "nothing was changed" in capsys.readouterr().err


def test_the_launch_table_is_written_as_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = ("quantize", (9, 0), (512, 4))
    monkeypatch.setitem(launches.TABLE, key, (16, 8))
    assert launches.launch_rows("quantize", 512, 4, (9, 0)) == launches.RowsLaunch(16, 8)
    assert launches.launch_rows("quantize", 512, 4, (8, 0)) != launches.RowsLaunch(16, 8)
    for _ in range(2):  # what was written is rewritten
        path = tmp_path / "launches.py"
        path.write_text(tune.source(Path(launches.__file__)), encoding="utf-8")
        monkeypatch.setattr(launches, "__file__", str(path))
    assert runpy.run_path(str(path))["TABLE"] == launches.TABLE


@pytest.mark.parametrize("broken", ["lost", "attend"])
def test_nothing_is_timed_when_an_op_is_wrong(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = getattr(kernels_layer.Store, broken)

    def wrong(store: kernels_layer.Store) -> float | torch.Tensor:
        result: float | torch.Tensor = right(store) * 1.1
        return result

    monkeypatch.setattr(kernels_layer.Store, broken, wrong)
    assert main([*SMALL, "--only", "planar 4"]) == 1
    printed = capsys.readouterr()
    assert "nothing is timed" in printed.err
    assert "decode" not in printed.out
