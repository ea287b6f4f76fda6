"""The bench of the kernels: it runs anywhere, and times nothing that is wrong."""

from __future__ import annotations

import argparse
import importlib
import json
import runpy
from pathlib import Path

import pytest
import torch

from rotorquant.bench import kernels, kernels_layer, kernels_parts, tune
from rotorquant.bench.__main__ import main
from rotorquant.bench.kernels_figures import Timing, figures
from rotorquant.bench.kernels_timing import Span
from rotorquant.codec.codebook import lloyd_max
from rotorquant.ops import dispatch, launches
from rotorquant.ops import quantize as quantize_op
from rotorquant.ops.gate import reference as gate_reference
from rotorquant.ops.quantize import make_codebook

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
    assert report["left_out"] == 0
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


def timing(op: str, way: str, tokens: int, ms: float, share: float = 0.5) -> Timing:
    return Timing(op, way, tokens, 1, 0.0, share, 0.0, Span(ms, ms, ms))


def test_every_figure_is_reported_and_judged() -> None:
    timings = [
        timing("decode", "aligned 4", 131_072, 1.0, share=0.81),
        timing("decode", "aligned 8", 131_072, 2.5),
        timing("decode", "bf16 K+V, SDPA", 131_072, 4.0),
        timing("decode", "bf16 K+V", 131_072, 2.0),
        timing("decode", "turbo, published 4", 131_072, 20.0),
        timing("decode", "turbo, best 4", 131_072, 1.4),
        # Too short to count
        timing("decode", "aligned 4", 4096, 9.0),
        timing("decode", "bf16 K+V", 4096, 1.0),
        timing("quantize", "aligned 4", 32_768, 1.0, share=0.7),
        timing("quantize", "turbo, published 4", 32_768, 5.0),
        timing("prefill 512", "aligned 4", 32_768, 2.0),
    ]
    found = {figure.name: (figure.value, figure.reached) for figure in figures(timings)}
    assert list(found.values()) == [
        (0.81, True),
        (4.0, False),
        (5.0, False),
        (20.0, True),
        (1.4, False),
        (0.8, False),  # 8 bits against the faster of the two bf16 ways
        (None, None),
        (0.7, True),
    ]
    texts = [figure.text for figure in figures(timings)]
    assert [text.split("  ")[-1] for text in texts].count("NOT reached") == 4
    assert texts[6].endswith("not measured")
    assert all(figure.value is None for figure in figures([]))


def test_the_report_says_when_time_was_up(capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--only", "planar 4", "int8 ring", "--budget-s", "0"]
    assert main([*SMALL, *only]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    # Three ops over a global layer, and the ring.
    assert (report["timings"], report["left_out"]) == ([], 4)
    assert any("4 kinds of timings were left out" in line for line in lines)
    assert [line for line in lines if line.endswith("not measured")]


def test_a_part_that_is_not_its_formula_stops_the_bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gate_reference.gelu_gate
    monkeypatch.setattr(gate_reference, "gelu_gate", lambda gate, up: right(gate, up) * 1.05)
    monkeypatch.setattr(kernels_parts, "gelu_gate", right)
    monkeypatch.setattr(kernels, "GLOBAL_WAYS", ())
    monkeypatch.setattr(kernels, "SLIDING_WAYS", ())
    assert main(SMALL) == 1
    assert "gate, gelu, is not its formula" in capsys.readouterr().err


def test_what_is_tuned_is_what_gemma_has() -> None:
    """The steps are made and run; which launches they ask for shows where kernels run."""
    listed = tune.subjects(64, torch.device("cpu"))
    kinds = {subject.kernel for subject in listed}
    assert kinds == {"attend", "chunk", "mix", "quantize", "rebuild", "map"}
    with torch.inference_mode():
        for kernel in kinds:
            step = next(subject for subject in listed if subject.kernel == kernel).make()
            assert step() is not None


def test_the_quickest_launch_that_is_right_goes_to_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    kernel = importlib.import_module("rotorquant.ops.quantize.kernel")
    monkeypatch.setattr(quantize_op, "_kernel", kernel)
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(launches, "TABLE", {})
    vectors, book = torch.randn(1, 2, 5, 64), make_codebook(lloyd_max(3), torch.device("cpu"))
    took: dict[tuple[int, ...], float] = {(2, 1): 3.0, (4, 1): 1.0, (64, 4): 2.0}
    key = ("quantize", (0, 0), (64, 3))
    monkeypatch.setattr(
        tune, "_time", lambda step, device, repeats: took[launches.TABLE.get(key, (64, 4))]
    )
    # Three rows are no power of two: it does not compile.
    listed = [tune.Subject("quantize", ((2, 1), (3, 1), (4, 1)), lambda: lambda: step())]

    def step() -> object:
        return quantize_op.quantize(vectors, book)

    written = tmp_path / "launches.py"
    options = argparse.Namespace(budget_s=60.0, repeats=1, write=written)
    *lines, last = tune.tune([*listed, listed[0]], torch.device("cpu"), options)
    assert dict(launches.TABLE) == {key: (4, 1)}
    assert str(written) in last
    assert runpy.run_path(str(written))["TABLE"] == {key: (4, 1)}
    assert "1.0000 ms; before (64, 4), 2.0000 ms" in lines[0]
    spent = argparse.Namespace(budget_s=-1.0, repeats=1, write=None)
    (line, _) = tune.tune(listed, torch.device("cpu"), spent)
    assert line.startswith("1 of 1 were left")


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
