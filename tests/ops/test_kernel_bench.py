"""The bench of the kernels: it runs anywhere, and times nothing that is wrong."""

from __future__ import annotations

import json

import pytest
import torch

from rotorquant.bench import kernels_layer
from rotorquant.bench.__main__ import main

SMALL = ["kernels", "--device", "cpu", "--tokens", "70", "--repeats", "1"]


def test_a_run_on_a_cpu_says_so_and_counts_the_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--only", "planar 4", "turbo-wht K+V 3"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert any("No GPU" in line for line in lines)
    report = json.loads(last)
    assert report["device"] == "cpu"
    assert not report["kernels"]
    found = {(timing["op"], timing["way"]): timing["nbytes"] for timing in report["timings"]}
    # 70 tokens of 4 heads: 512 values of 4 bits with a float16; and of 3 bits, twice.
    assert found["decode", "planar 4"] == 70 * 4 * (256 + 2)
    assert found["decode", "turbo-wht K+V 3"] == 70 * 4 * 2 * (192 + 2)
    assert found["decode", "bf16 K+V, SDPA"] == 70 * 4 * 2 * 1024
    assert found["quantize", "planar 4"] == 70 * 4 * (1024 + 256 + 2)


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
