"""`python -m rqchat.bench loss` reads a text with every rung and compares."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest

from rqchat.bench.loss import run_loss
from rqchat.engine.settings import WEIGHTS
from tests.engine.weights.checkpoints import EVEN_CONFIG
from tests.helpers import build_tiny_model


def test_every_rung_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = copy.deepcopy(EVEN_CONFIG)
    # Every rung loads the model anew, so it has one layer of each kind
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    config["text_config"] |= layers
    run_loss(str(build_tiny_model(tmp_path, config=config)), 40)

    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.endswith("40 tokens")
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert tuple(cells) == WEIGHTS
    own = ("bf16", "int8", "int4", "int3", "int2")  # the others need bitsandbytes, or say so
    means = [float(cells[weights][0]) for weights in own]
    assert means == sorted(means) and means[0] > 0
    for weights in own:
        mean, median, high, same = (float(cell.rstrip("%")) for cell in cells[weights])
        assert 0 <= median <= high and math.isfinite(mean) and 0 <= same <= 100
