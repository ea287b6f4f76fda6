"""The plan against hand-computed bytes, and its promises over all sizes of cards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rqchat.engine.hardware import DeviceInfo, planned_card
from rqchat.engine.plan import MemoryPlan, make_plan
from rqchat.engine.settings import KV_BITS, WEIGHTS, Settings
from rqchat.engine.shape import GEMMA4_31B_CONFIG, ModelShape
from rqchat.errors import DoesNotFitError, UsageError
from tests.helpers import TINY_CONFIG

_31B = ModelShape.from_config(GEMMA4_31B_CONFIG)
_GIB = 2**30


def _plan(gib: float, **asked: object) -> MemoryPlan:
    return make_plan(_31B, planned_card(int(gib * _GIB)), Settings(**asked))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gib", "weights", "kv_bits"),
    [
        (16, "int2", 3),
        (24, "int4", 4),
        (32, "int4", 16),
        (40, "int8", 8),
        (48, "int8", 16),
        (80, "bf16", 16),
        (96, "bf16", 16),
        (141, "bf16", 16),
    ],
)
def test_every_card_from_16_gib_holds_the_whole_context(
    gib: int, weights: str, kv_bits: int
) -> None:
    chosen = _plan(gib).chosen

    assert (chosen.weights, chosen.kv_bits, chosen.context_tokens) == (weights, kv_bits, 262_144)


def test_the_bytes_of_a_24_gib_card() -> None:
    used = _plan(24).chosen.bytes

    # 29,286,727,680 linear weights of 4 bits with a 16-bit scale per 32, all others in 16 bits
    assert used.weights == 29_286_727_680 * 9 // 16 + 1_986_361_196 * 2 == 20_446_506_712
    # 10 layers x 4 heads: 261,568 packed vectors of 256 + 2 bytes and 640 exact ones of 1,024;
    # 4 bytes a token for positions
    packed, exact = 40 * 261_568 * 258, 40 * 640 * 1024
    assert used.kv_global == packed + exact + 262_144 * 4 == 2_726_644_736
    # 50 layers x 16 heads x 1,024 tokens, K and V of 256 values in bf16
    assert used.kv_sliding == 50 * 16 * 1024 * 2 * 512 == 838_860_800
    # 512 MiB for the CUDA context and 2 % of the card
    assert used.reserve == 512 * 2**20 + 24 * _GIB // 50 == 1_052_266_987
    # a chunk of 512: residual, MLP and attention tensors in bf16, scores of 32 heads x 512 keys
    # twice in float32, one unpacked linear, three rows of logits in float32, the exact chunk
    values = 6 * 5376 + 3 * 21_504 + 4 * 32 * 512
    step = 512 * values * 2 + 2 * 4 * 512 * 32 * 512 + 5376 * 21_504 * 2 + 3 * 4 * 262_144
    assert used.workspace == step + 40 * 512 * 1024


@pytest.mark.parametrize("gib", [8, 12])
def test_a_card_that_is_too_small_is_told_what_is_missing(gib: int) -> None:
    with pytest.raises(DoesNotFitError, match=r"GB are missing.*smaller model") as caught:
        _plan(gib)

    assert caught.value.exit_code == 3


def test_forced_weights_that_do_not_fit_name_the_way_out() -> None:
    with pytest.raises(DoesNotFitError, match="bf16 weights.*leave out --weights"):
        _plan(24, weights="bf16")


def test_without_the_whole_context_the_longest_is_taken() -> None:
    plan = _plan(24, weights="int4", kv_bits=16)

    assert 2048 <= plan.chosen.context_tokens < 262_144
    assert plan.chosen.context_tokens % 64 == 0
    one_more = plan.chosen.bytes.total + 64 * 40_960  # 64 tokens in bf16
    assert plan.chosen.bytes.total <= plan.device.free_bytes < one_more
    assert "262,144 tokens asked for do not fit" in plan.reason


def test_a_shorter_context_buys_better_weights() -> None:
    assert _plan(40, context_tokens=8192).chosen.kv_bits > _plan(40).chosen.kv_bits
    assert _plan(34, context_tokens=8192).chosen.weights == "int8"
    assert _plan(34).chosen.weights == "int4"


def test_weights_are_halved_only_for_twice_the_context() -> None:
    # At 16 bits of KV the int8 weights leave room for 45,000 to 50,000 tokens in 38 GiB
    plan = _plan(38, kv_bits=16)
    longest = {c.weights: c.context_tokens for c in plan.candidates}

    assert longest["int4"] == 262_144  # reached, so quality decides among those that reach it
    assert plan.chosen.weights == "int4"
    assert longest["int8"] < 131_072


def test_the_reason_names_the_next_better_pair() -> None:
    assert "5-bit KV would need 0.0" in _plan(24).reason
    assert "int8 weights would need 10." in _plan(24).reason


def test_json_has_exactly_the_contracts_keys() -> None:
    made = _plan(24).as_json("google/gemma-4-31B-it")

    assert set(made) == {"model", "device", "chosen", "candidates", "reason"}
    assert set(made["device"]) == {"name", "total_bytes", "free_bytes", "source"}
    rows = [made["chosen"], *made["candidates"]]
    for row in rows:
        assert set(row) == {"weights", "weight_bits", "kv_bits", "context", "bytes"}
        parts = {"weights", "kv_global", "kv_sliding", "workspace", "reserve"}
        assert set(row["bytes"]) == parts | {"total"}
        assert sum(row["bytes"][part] for part in parts) == row["bytes"]["total"]
    assert made["chosen"] in made["candidates"]


def test_a_context_beyond_the_models_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="262,145.*262,144"):
        _plan(141, context_tokens=262_145)


def test_a_cpu_runs_in_float32_with_the_packed_cache() -> None:
    shape = ModelShape.from_config(TINY_CONFIG)
    cpu = DeviceInfo("CPU", 8 * _GIB, 8 * _GIB, "main memory", "cpu")

    chosen = make_plan(shape, cpu, Settings()).chosen

    assert (chosen.weights, chosen.kv_bits, chosen.context_tokens) == ("fp32", 4, 2048)
    assert chosen.bytes.weights == shape.parameters * 4
    assert make_plan(shape, cpu, Settings(kv_bits=16, weights="bf16")).chosen.kv_bits == 16


_asked = st.builds(
    Settings,
    weights=st.none() | st.sampled_from(WEIGHTS),
    kv_bits=st.none() | st.sampled_from(KV_BITS),
    context_tokens=st.none() | st.integers(1, 262_144),
)


def _context(shape: ModelShape, device: DeviceInfo, asked: Settings) -> int:
    try:
        return make_plan(shape, device, asked).chosen.context_tokens
    except DoesNotFitError:
        return 0


@settings(max_examples=60, deadline=None)
@given(asked=_asked, total=st.integers(1, 200 * _GIB), more=st.integers(1, 40 * _GIB))
def test_more_memory_never_gives_less_context(asked: Settings, total: int, more: int) -> None:
    small, large = planned_card(total), planned_card(total + more)

    assert _context(_31B, large, asked) >= _context(_31B, small, asked)


@settings(max_examples=60, deadline=None)
@given(asked=_asked, total=st.integers(1, 200 * _GIB), share=st.floats(0.1, 1.0))
def test_no_candidate_takes_more_than_is_free(asked: Settings, total: int, share: float) -> None:
    device = DeviceInfo("card", total, int(total * share), "test")
    try:
        plan = make_plan(_31B, device, asked)
    except DoesNotFitError:
        return

    assert max(c.bytes.total for c in plan.candidates) <= device.free_bytes
    assert plan.chosen in plan.candidates
    assert plan.chosen.context_tokens <= plan.asked_tokens


@settings(max_examples=30, deadline=None)
@given(weights=st.sampled_from(WEIGHTS), total=st.integers(20 * _GIB, 200 * _GIB))
def test_forcing_weights_never_changes_their_bytes(weights: str, total: int) -> None:
    free = {
        candidate.weights: candidate.bytes.weights
        for candidate in make_plan(_31B, planned_card(total), Settings()).candidates
    }
    try:
        forced = make_plan(_31B, planned_card(total), Settings(weights=weights)).chosen
    except DoesNotFitError:
        return

    assert forced.weights == weights
    assert forced.bytes.weights == free.get(weights, forced.bytes.weights)


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; import rqchat.engine.plan, rqchat.engine.models, rqchat.engine.conversation,"
        " rqchat.engine.events, rqchat.engine.thoughts, rqchat.engine.hardware;"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode == 0
