"""What torch's allocator keeps of a card beside what the plan has for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rqchat.engine.measure import plan_check
from rqchat.engine.planning.formats import weights_of
from rqchat.engine.planning.gpus import DeviceInfo
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.plan import MemoryPlan, make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import ALLOCATOR_VARIABLES, Settings
from tests.engine.planning.cuda_allocator import Allocator

_MIB = 2**20
_SHAPE = ModelShape.from_config(known_models()[0].config)
_SEES = """
import os, sys
class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get({name!r}))
            sys.stdout.flush()
            os._exit(0)
sys.meta_path.insert(0, Torch())
from rqchat.cli import app
app.main(["ask", "--model", "pocket", "--device", "cpu", "-n", "hello"])
"""


def _plan(source: str = "NVML") -> MemoryPlan:
    card = DeviceInfo("card", 24 * 2**30, 24 * 2**30, source)
    return make_plan(_SHAPE, card, Settings(weights="int4", head_bits=8, kv_bits=4))


def _kept_of_a_load(*, expandable: bool) -> int:
    """Bytes between reserved and allocated after the 31B's weights: words, then scales."""
    allocator, int4 = Allocator(expandable=expandable), weights_of("int4")
    for layer in range(60):
        for matrix in _SHAPE.matrices:
            if layer < matrix.count // max(1, matrix.count // 60):
                allocator.take(matrix.rows * matrix.columns // 2)
                allocator.take(int4.matrix_bytes(matrix.rows, matrix.columns) // 9)
    return allocator.reserved_bytes - allocator.allocated_bytes


def test_segments_that_grow_keep_less_than_is_planned_and_fixed_ones_as_much_as_on_amd() -> None:
    grows, fixed = (_kept_of_a_load(expandable=each) for each in (True, False))

    assert grows <= (20 + 2) * _MIB < fixed
    assert grows < _plan().chosen.bytes.allocator
    assert fixed < _plan("amdgpu").chosen.bytes.allocator
    assert fixed > _plan().chosen.bytes.allocator


def test_the_rules_of_the_allocator() -> None:
    """Sizes by hand: what rounds up, what is split, what merges, what goes back."""
    fixed = Allocator(expandable=False)
    small, large = fixed.take(1), fixed.take(_MIB + 1)
    assert (fixed.allocated_bytes, fixed.reserved_bytes) == (512 + _MIB + 512, 22 * _MIB)
    own = fixed.take(10 * _MIB + 512 * 2**10)  # goes into what is left of 20 MiB
    assert fixed.reserved_bytes == 22 * _MIB
    other = fixed.take(11 * _MIB)
    assert fixed.reserved_bytes == 34 * _MIB
    fixed.give_back(other, 11 * _MIB)
    fixed.empty_cache()
    assert fixed.reserved_bytes == 22 * _MIB
    for block, size in ((small, 1), (large, _MIB + 1), (own, 10 * _MIB + 512 * 2**10)):
        fixed.give_back(block, size)
    fixed.empty_cache()
    assert (fixed.allocated_bytes, fixed.reserved_bytes, fixed.peak_bytes) == (0, 0, 34 * _MIB)

    grows = Allocator(expandable=True)
    first, second = grows.take(30 * _MIB), grows.take(25 * _MIB)
    assert grows.reserved_bytes == 60 * _MIB
    grows.give_back(first, 30 * _MIB)
    grows.take(28 * _MIB)
    assert grows.reserved_bytes == 60 * _MIB
    grows.give_back(second, 25 * _MIB)
    grows.take(40 * _MIB)  # what is free at the end grows
    assert grows.reserved_bytes == 80 * _MIB


@pytest.mark.parametrize("name", ALLOCATOR_VARIABLES[:2])
def test_segments_may_grow_before_torch_is_imported_unless_the_user_says_otherwise(
    name: str,
) -> None:
    environment = {key: os.environ[key] for key in os.environ if key not in ALLOCATOR_VARIABLES}

    def seen(**given: str) -> str:
        command = [sys.executable, "-c", _SEES.format(name=name)]
        run = subprocess.run(command, env=environment | given, capture_output=True, text=True)
        return run.stdout.strip()

    if name == ALLOCATOR_VARIABLES[0]:
        assert seen() == "expandable_segments:True"
        assert seen(**{ALLOCATOR_VARIABLES[1]: "backend:cudaMallocAsync"}) == "None"
    assert seen(**{name: "max_split_size_mb:64"}) == "max_split_size_mb:64"


def test_the_peak_is_compared_with_what_the_allocator_may_reserve() -> None:
    plan = _plan()

    class Session:
        weight_bytes = cache_bytes = 1
        plan = _plan()

    class Done:
        class memory:
            peak_bytes = 7

    *_, peak = plan_check.measured_parts(Session(), Done())  # type: ignore[arg-type]
    assert peak.planned_bytes == plan.chosen.bytes.total - 768 * _MIB
    assert peak.measured_bytes == 7


def test_a_card_without_attention_kernels_is_planned_with_what_their_references_take() -> None:
    turing = DeviceInfo("T4", 24 * 2**30, 24 * 2**30, "NVML", capability=(7, 5))
    newer = DeviceInfo("L4", 24 * 2**30, 24 * 2**30, "NVML", capability=(8, 9))
    asked = Settings(weights="int4", kv_bits=4, context_tokens=65_536)
    without, with_kernels = (make_plan(_SHAPE, card, asked) for card in (turing, newer))

    assert "64 KiB of shared memory" in without.reason
    assert "shared memory" not in with_kernels.reason
    assert without.chosen.bytes.workspace > with_kernels.chosen.bytes.workspace
