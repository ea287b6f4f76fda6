"""The benches of paths and memory: what they time is right, what they count is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rotorquant.bench.__main__ import main
from rotorquant.bench.kernels_layer import Layer
from rotorquant.bench.paths import PATHS, WAYS, Side, Way

CPU = torch.device("cpu")


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_every_way_reads_what_was_stored(way: Way) -> None:
    layer = Layer(160, CPU)
    side = Side(layer, way, 8)
    keys, values = layer.key().double(), layer.value.double()
    expected = (layer.grouped.double() @ keys.mT).softmax(-1) @ values
    found = side.step(PATHS[2])
    assert isinstance(found, torch.Tensor)
    # 8 bits leave 0.7 % of a value, and scores of a spread of 3 as much of themselves.
    torch.testing.assert_close(found.double(), expected, atol=0.1, rtol=0)
    assert side.token_bytes == 4 * 514 * (1 if way.tied else 2)


def test_the_paths_are_compared_with_both_forms_of_turboquant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["paths", "--tokens", "64", "--rounds", "1"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    record = json.loads(last)
    assert [(row["path"], row["way"]) for row in record["rows"]] == [
        (path, way.name) for path in PATHS for way in WAYS
    ]
    for row in record["rows"]:
        assert row["middle_ms"] > 0
        assert row["way"] != "turbo published" or row["published"] == 1.0
    assert sum("prefill" in line for line in table) == len(WAYS)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts as Linux does")
def test_a_filled_layer_has_the_bytes_of_the_layout() -> None:
    # A process of its own has no freed memory left to take first
    command = [sys.executable, "-m", "rotorquant.bench", "memory"]
    command += ["--tokens", "2048", "--chunk", "128"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *table, last = run.stdout.splitlines()
    record = json.loads(last)
    assert record["token_bytes"] == 4 * 258
    # 2,048 - 64 - 512 tokens packed, 64 first, 512 latest, a page and a chunk exact, at most.
    assert record["layer_bytes"] <= 1472 * 1032 + (64 + 512 + 64 + 128) * 4096
    assert record["extra_bytes"] > 0
    assert "packed 1,344 tokens" in table[2]
