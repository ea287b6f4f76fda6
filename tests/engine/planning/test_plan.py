"""The plan against hand-computed bytes, and what is chosen on which card."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from rotorquant.attend import prompt_chunk
from rotorquant.ops.attend.reference import SCORE_BUDGET, TILE_KEYS
from rqchat.engine.planning import workspace
from rqchat.engine.planning.devices import DeviceInfo, planned_card
from rqchat.engine.planning.known_models import KnownModel, known_models
from rqchat.engine.planning.plan import MemoryPlan, make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import PREFERENCES, Settings
from rqchat.engine.weights.kernels import multiply
from rqchat.errors import DoesNotFitError, UsageError
from tests.helpers import TINY_CONFIG

_31B = ModelShape.from_config(known_models()[0].config)
_GIB = 2**30


def _plan(gib: float, **asked: object) -> MemoryPlan:
    return make_plan(_31B, planned_card(int(gib * _GIB)), Settings(**asked))  # type: ignore[arg-type]


# By hand, in bytes, at 262,144 tokens: packed vectors of 512 values at B bits and their scale, for
# 10 layers of 4 heads beyond the 576 exact tokens; 640 exact vectors; positions; rings in bf16
_LINEARS = 29_286_727_680  # all of them multiples of 64 inputs
_TABLE = 262_144 * 5376
_OTHER = 31_273_088_876 - _LINEARS - _TABLE
_TOWER_BYTES = 575_743_536 * 2
_RING = 50 * 1024 * 16 * 2 * 256


def _by_hand(
    gib: float,
    linear_bits: float,
    head_bits: int,
    kv_bits: int,
    ring: int,
    chunk: int,
    host_bytes: int,
) -> int:
    rows = 0 if linear_bits != 8 else 2 * (50 * 70_144 + 10 * 72_192)  # a 16-bit scale per output
    head = _TABLE * 2 if head_bits == 16 else _TABLE + 2 * 262_144
    vector = 1024 if kv_bits == 16 else 64 * kv_bits + 2
    maps = 0 if kv_bits == 16 else 40 * (3 * 512 + 1) * 512 * 4
    kv = 40 * (261_568 * vector + 640 * 1024) + maps + 4 * 262_144
    sliding = _RING * 2 if ring == 16 else _RING + _RING // 256 * 2
    keys, size = 4 * 512, 8192 * 4 * 512 * 2
    attention = chunk * (3 * 5376 + 2 * 16_384 + 3 * keys + 2 * (512 + 256)) * 2
    sums = chunk * 16_384 * 4
    packed = chunk * 16_384 * 2 + sums + 2 * size + 8192 * 2 * 64 * 2  # 64 pairs turn
    attention += packed if kv_bits < 16 else sums + 3 * size
    attention += 2 * (chunk + 640) * keys * 2
    mlp = chunk * (6 * 5376 + 2 * keys + 2 * (512 + 256)) * 2
    mlp += chunk * 21_504 * 2 * (3 if linear_bits == 16 else 2)
    mlp += 0 if linear_bits == 16 else 5376 * 21_504 // 2 * 2
    kept = 2 * (chunk + 1024) * 16 * 256 * 2  # K and V of a sliding layer
    largest = max(attention, mlp) + kept
    step = largest + 3 * 4 * 262_144 + 2 * 2**25 + 2**26 + 40 * chunk * 1024
    reserve = (768 + 44) * 2**20 + largest // 2
    weights = int(_LINEARS * linear_bits / 8) + rows + head + _OTHER * 2 - host_bytes
    return weights + kv + sliding + step + reserve


@pytest.mark.parametrize(
    ("gib", "weights", "stored_bits", "head_bits", "kv_bits", "ring", "chunk", "host_bytes"),
    [
        (22, "int4", 4.5, 8, 5, 16, 512, _TOWER_BYTES),
        (24, "int4", 4.5, 8, 8, 16, 512, _TOWER_BYTES),
        (32, "int4", 4.5, 16, 16, 16, 2048, 0),
        (48, "int8", 8, 16, 16, 16, 2048, 0),
        (80, "bf16", 16, 16, 16, 16, 2048, 0),
        (96, "bf16", 16, 16, 16, 16, 2048, 0),
        (141, "bf16", 16, 16, 16, 16, 2048, 0),
    ],
)
def test_every_card_from_22_gib_holds_the_whole_context(
    gib: int,
    weights: str,
    stored_bits: float,
    head_bits: int,
    kv_bits: int,
    ring: int,
    chunk: int,
    host_bytes: int,
) -> None:
    chosen = _plan(gib).chosen

    assert (chosen.weights, chosen.kv_bits, chosen.context_tokens) == (weights, kv_bits, 262_144)
    assert (chosen.head_bits, chosen.sliding_bits) == (head_bits, ring)
    assert chosen.chunk_tokens == chunk
    assert chosen.bytes.host == host_bytes
    by_hand = _by_hand(gib, stored_bits, head_bits, kv_bits, ring, chunk, host_bytes)
    assert chosen.bytes.total == by_hand


def test_the_bytes_of_a_24_gib_card() -> None:
    used = _plan(24, kv_bits=4, head_bits=16).chosen.bytes

    # 29,286,727,680 linear weights of 4 bits with a 16-bit scale per 32, all others in 16 bits
    assert used.weights == 29_286_727_680 * 9 // 16 + 1_986_361_196 * 2 == 20_446_506_712
    # 10 layers x 4 heads: 261,568 packed vectors of 256 + 2 bytes and 640 exact ones of 1,024;
    # 4 bytes a token for positions; per head a mean and three maps of a calibration in float32
    packed, exact, maps = 40 * 261_568 * 258, 40 * 640 * 1024, 40 * (3 * 512 + 1) * 512 * 4
    assert used.kv_global == packed + exact + maps + 262_144 * 4 == 2_852_555_776
    # 50 layers x 16 heads x 1,024 tokens, K and V of 256 values in 16 bits
    assert used.kv_sliding == 50 * 16 * 1024 * 2 * 512 == 838_860_800
    # a chunk of 1,024 in attention, with 8,192 unpacked tokens; three rows of logits, what cuBLAS
    # keeps, the captured step, the exact chunk
    step = 1024 * ((3 * 5376 + 3 * 16_384 + 3 * 2048 + 1536) * 2 + 16_384 * 4)
    step += 2 * 1664 * 2048 * 2 + 8192 * (2 * 2048 + 128) * 2 + 2 * 2048 * 4096 * 2
    rest = 3 * 4 * 262_144 + 2 * 2**25 + 2**26 + 40 * 1024 * 1024
    assert used.workspace == step + rest == 512_229_376
    # half of the largest step for holes and four begun segments; 512 MiB for the CUDA context, 256
    # left free
    assert used.allocator == 44 * 2**20 + step // 2
    assert used.reserve == 768 * 2**20 + used.allocator
    assert used.reserved == used.total - 768 * 2**20


def test_a_mixtures_experts_in_16_bits_are_its_largest_step() -> None:
    """transformers' own layers, which cannot be counted without a GPU (`test_workspace.py`)."""
    shape = ModelShape.from_config(next(m.config for m in known_models() if "26B" in m.name))
    chosen = make_plan(shape, planned_card(64 * _GIB), Settings()).chosen

    assert (chosen.weights, chosen.kv_bits, chosen.chunk_tokens) == ("bf16", 16, 2048)
    # Six times the stream; for each of a token's 8 experts it is there twice, and twice in float32
    experts = 2048 * (6 * 2816 * 2 + 8 * 2816 * (2 * 2 + 2 * 4))
    exact = 5 * 2 * 512 * 2048 * 2
    assert chosen.bytes.workspace == experts + 3 * 4 * 262_144 + 2 * 2**25 + 2**26 + exact


def test_attention_takes_what_the_library_says() -> None:
    assert workspace._HISTORY_TOKENS == prompt_chunk.HISTORY_TOKENS
    assert (workspace._SCORES, workspace._TILE_TOKENS) == (SCORE_BUDGET, TILE_KEYS)
    assert workspace._SPACE_ROWS == prompt_chunk._ROWS


def test_what_a_product_unpacks_is_what_it_says() -> None:
    assert workspace._SCRATCH_VALUES == multiply._SCRATCH_VALUES


def test_what_a_decode_step_reads_of_a_24_gib_card() -> None:
    card = replace(planned_card(24 * _GIB), bandwidth=936 * 10**9)
    chosen = make_plan(_31B, card, Settings(kv_bits=4, head_bits=8)).chosen

    linears, head = 29_286_727_680 * 9 // 16, 262_144 * (5376 + 2)
    cache = 40 * (261_568 * 258 + 640 * 1024) + 50 * 16 * 1024 * 2 * 512
    norms = _31B.norms * 2 + 5376 * 2  # and one row of the embedding
    assert chosen.read_bytes == linears + head + cache + norms
    # 22.0 GB: performance.md has 21.83 for 8.5-bit heads and scales per 32 values of the cache
    assert chosen.tokens_per_s == pytest.approx(936 / 21.47, rel=0.01)


@pytest.mark.parametrize("gib", [8, 12])
def test_a_card_that_is_too_small_names_what_is_missing(gib: int) -> None:
    way_out = (
        r"GiB are missing: int3 weights.*take --model (e4b|12b|26b-a4b), which fits with int[48]"
    )
    with pytest.raises(DoesNotFitError, match=way_out) as caught:
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
    assert "instead of 262,144 tokens of context" in plan.reason


def test_a_shorter_context_buys_better_weights() -> None:
    assert _plan(24, context_tokens=8192).chosen.kv_bits > _plan(24).chosen.kv_bits
    assert _plan(34, context_tokens=8192).chosen.weights == "int8"
    assert _plan(32).chosen.weights == "int4"


@pytest.mark.parametrize("prefer", [None, *PREFERENCES])
@pytest.mark.parametrize("gib", [8, 16, 20])
def test_two_bits_are_taken_only_where_they_are_asked_for(gib: int, prefer: str | None) -> None:
    for formats in (None, ("int4", "int3", "int2")):
        try:
            plan = make_plan(_31B, planned_card(gib * _GIB), Settings(prefer=prefer), formats)
        except DoesNotFitError as error:
            assert "int2" not in str(error)
            continue

        assert min(candidate.weight_bits for candidate in plan.candidates) >= 3
        least = min(candidate.kv_bits for candidate in plan.candidates)
        assert least >= (2 if prefer == "context" else 4)


def test_two_bits_that_were_asked_for_name_what_would_be_better() -> None:
    plan = _plan(20, weights="int2")

    assert plan.chosen.weights == "int2"
    assert "2 instead of 16 bits of weights" in plan.reason
    assert "Plain mistakes in answers." in plan.reason
    assert re.search(r"Or take --model 26b-a4b, which fits with int4 weights", plan.reason)


def test_the_reason_says_what_is_missing_for_more() -> None:
    first, second, on_host, third = _plan(24).reason.split("\n")

    assert first.startswith("int4 weights and an 8-bit head with an 8-bit KV cache hold 262,144")
    assert second.startswith("Given up for that: 4 instead of 16 bits of weights, 8 instead")
    assert on_host == "1.07 GiB lie in main memory: the image tower, until a picture comes."
    assert re.fullmatch(
        r"For that context 16-bit KV would need \d\.\d+ GiB more and int8 weights would need"
        r" \d+\.\d+ GiB more\.",
        third,
    )


def test_what_was_given_up_is_said_in_words() -> None:
    plan = _plan(20)
    left = plan.chosen.context_tokens

    assert left < 262_144
    assert plan.reason.split("\n")[1:] == [
        "Given up for that: 4 instead of 16 bits of weights, 4 instead of 16 bits of KV cache,"
        f" {left:,} instead of 262,144 tokens of context. Answers almost as good as with 16 bits.",
        "1.07 GiB lie in main memory: the image tower, until a picture comes.",
        "Or take --model 26b-a4b, which fits with int4 weights and 262,144 tokens.",
    ]
    whole = _plan(96).reason
    assert "Given up" not in whole


def test_a_context_is_given_up_before_weights_fall_below_4_bits() -> None:
    """And a cache below 4 bits only where context was preferred."""
    plan = _plan(20.5)

    assert (plan.chosen.weights, plan.chosen.kv_bits) == ("int4", 4)
    assert 65_536 <= plan.chosen.context_tokens < 262_144
    longer = _plan(20.5, prefer="context").chosen
    assert (longer.weights, longer.kv_bits, longer.context_tokens) == ("int4", 3, 262_144)


@pytest.mark.parametrize("gib", [20, 22, 24, 40, 70, 141])
def test_a_preference_gets_the_best_of_its_kind(gib: int) -> None:
    balanced = _plan(gib)
    quality, context, speed = (
        _plan(gib, prefer=name).chosen for name in ("quality", "context", "speed")
    )

    assert quality.weight_bits == max(
        c.weight_bits for c in balanced.candidates if c.context_tokens >= 32_768
    )
    assert speed.read_bytes <= balanced.chosen.read_bytes
    assert speed.context_tokens == balanced.chosen.context_tokens <= context.context_tokens


def test_quality_keeps_a_context_that_was_asked_for() -> None:
    assert _plan(24, prefer="quality", context_tokens=262_144).chosen.context_tokens == 262_144


def test_a_packed_checkpoint_has_the_formats_it_has() -> None:
    card = planned_card(80 * _GIB)

    assert make_plan(_31B, card, Settings(), ("int4", "int3", "int2")).chosen.weights == "int4"
    with pytest.raises(UsageError, match="'bf16'; this checkpoint holds int4, int3, int2 weights"):
        make_plan(_31B, card, Settings(weights="bf16"), ("int4", "int3", "int2"))


@pytest.mark.parametrize("model", known_models(), ids=lambda model: model.name)
def test_every_gemma_4_can_be_planned(model: KnownModel) -> None:
    shape = ModelShape.from_config(model.config)

    plan = make_plan(shape, planned_card(24 * _GIB), Settings())

    assert plan.chosen.context_tokens == shape.max_context_tokens


def test_json_has_exactly_the_contracts_keys() -> None:
    made = _plan(24).as_json("google/gemma-4-31B-it")

    assert set(made) == {"model", "device", "chosen", "candidates", "reason"}
    assert set(made["device"]) == {"name", "total_bytes", "free_bytes", "source"}
    rows = [made["chosen"], *made["candidates"]]
    for row in rows:
        assert set(row) == {"weights", "weight_bits", "kv_bits", "context", "chunk", "bytes"}
        parts = {"weights", "kv_global", "kv_sliding", "workspace", "reserve"}
        assert set(row["bytes"]) == parts | {"total", "host", "allocator", "reserved"}
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


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; import rqchat.engine.planning.plan, rqchat.engine.planning.devices;"
        "import rqchat.engine.model_files.resolve, rqchat.engine.generation.text_stream;"
        "import rqchat.engine.conversation, rqchat.engine.events;"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode == 0
