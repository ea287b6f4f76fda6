"""The memory benchmark: its meter, its random checkpoints, and the plan on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rqchat.bench.checkpoint import write_checkpoint
from rqchat.bench.memory_case import Case, measure
from rqchat.bench.meter import TensorMeter
from tests.helpers import TINY_CONFIG


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
    assert meter.peak_bytes == 5000


def test_the_plan_is_not_exceeded_and_not_generous() -> None:
    found = measure(Case("pocket", None, 6144, device="cpu"))

    assert found.read_tokens > 6000
    assert found.measured_bytes <= found.planned_bytes
    # The pocket model is nearly all workspace; its scores of 4,096 keys are the most of it
    assert found.planned_bytes <= 1.05 * found.measured_bytes


@pytest.mark.parametrize(("packed", "weights"), [(True, "int4"), (False, "bf16")])
def test_random_checkpoints_are_loaded_like_real_ones(
    tiny_folder: Path, tmp_path: Path, packed: bool, weights: str
) -> None:
    folder = write_checkpoint(tmp_path / "model", TINY_CONFIG, tiny_folder, packed=packed)

    found = measure(Case(str(folder), weights, 512, device="cpu"))

    assert found.weights == weights
    assert 400 < found.read_tokens <= 512
