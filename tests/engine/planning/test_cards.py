"""What every Gemma 4 gets on the cards that people have, against bounds computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rqchat.engine.planning.automatic import fitting_models
from rqchat.engine.planning.devices import planned_card
from rqchat.engine.planning.known_models import KnownModel, known_models
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings
from rqchat.errors import DoesNotFitError

_GIB = 2**30
_CARDS = (4, 6, 8, 12, 16, 20, 24, 32, 48, 80)
_WORDS = 262_144  # of the vocabulary
# Values by hand from the published sizes: linears of all layers, a global layer being every sixth
# (every fifth of E2B's 35), tables of the vocabulary, per-layer embeddings, image tower and norms
_LINEARS = {
    "31b": 50 * 5376 * (2 * 8192 + 2 * 4096)
    + 10 * 5376 * (2 * 16_384 + 2048)
    + 60 * 3 * 5376 * 21_504,
    "26b-a4b": 25 * 2816 * (2 * 4096 + 2 * 2048)
    + 5 * 2816 * (2 * 8192 + 1024)
    + 30 * 3 * 2816 * (2112 + 128 * 704),
    "12b": 40 * 3840 * (2 * 4096 + 2 * 2048) + 8 * 3840 * (2 * 8192 + 512) + 48 * 3 * 3840 * 15_360,
    # 18 and 20 layers borrow keys and values; E2B's have MLPs twice as wide
    "e4b": 2560 * (35 * 2 * 2048 + 7 * 2 * 4096 + 20 * 2 * 512 + 4 * 2 * 1024)
    + 42 * (3 * 2560 * 10_240 + 2 * 2560 * 256)
    + 42 * 256 * 2560,
    "e2b": 1536 * (28 * 2 * 2048 + 7 * 2 * 4096 + 12 * 2 * 256 + 3 * 2 * 512)
    + 1536 * 3 * (15 + 20 * 2) * 6144
    + 35 * 2 * 1536 * 256
    + 35 * 256 * 1536,
}
_TABLE = {
    "31b": _WORDS * 5376,
    "26b-a4b": _WORDS * 2816,
    "12b": _WORDS * 3840,
    "e4b": _WORDS * 2560,
    "e2b": _WORDS * 1536,
}
_PER_LAYER = {"e4b": _WORDS * 42 * 256, "e2b": _WORDS * 35 * 256}
_TOWER = {"31b": 0.58e9, "26b-a4b": 0.58e9, "12b": 0.05e9, "e4b": 0.17e9, "e2b": 0.17e9}
_STORED_BITS = {"bf16": 16, "int8": 8, "int4": 4.5, "int3": 3.125}
# Rows that groups of 128 do not divide have scales for 64, so half as many bits again for them
_IN_GROUPS_OF_64 = {"26b-a4b": 30 * 2816 * (2112 + 128 * 704)}
_STEP = 0.3e9  # the least that caches and a step of a prompt take
_RESERVE = 768 * 2**20  # CUDA's context and what a desktop is left

# Weights, KV bits and tokens on each of `_CARDS`; None where the model does not fit
_EXPECTED: dict[str, list[Any]] = {
    "31b": [
        *(None, None, None, None, ("int3", 4, 233_728), ("int4", 4, 162_176)),
        ("int4", 8, 262_144),
        *(("int4", 16, 262_144), ("int8", 16, 262_144), ("bf16", 16, 262_144)),
    ],
    "26b-a4b": [
        *(None, None, None, ("int3", 6, 262_144), ("int4", 6, 262_144), ("int4", 16, 262_144)),
        *(("int4", 16, 262_144), ("int8", 16, 262_144), ("int8", 16, 262_144)),
        ("bf16", 16, 262_144),
    ],
    "12b": [
        *(None, None, ("int3", 8, 262_144), ("int4", 16, 262_144), ("int8", 16, 262_144)),
        *(("int8", 16, 262_144), ("bf16", 8, 262_144), ("bf16", 16, 262_144)),
        *(("bf16", 16, 262_144), ("bf16", 16, 262_144)),
    ],
    "e4b": [
        *(("int3", 6, 131_072), ("int8", 4, 131_072), ("int8", 16, 131_072)),
        *[("bf16", 16, 131_072)] * 7,
    ],
    "e2b": [("int8", 16, 131_072), *[("bf16", 16, 131_072)] * 9],
}
_CASES = [
    pytest.param(model, gib, expected, id=f"{model.short_name} {gib}")
    for model in known_models()
    for gib, expected in zip(_CARDS, _EXPECTED[model.short_name], strict=True)
]


@pytest.mark.parametrize(("model", "gib", "expected"), _CASES)
def test_what_a_card_gets(model: KnownModel, gib: int, expected: tuple[str, int, int]) -> None:
    name, shape = model.short_name, ModelShape.from_config(model.config)
    try:
        chosen = make_plan(shape, planned_card(gib * _GIB), Settings()).chosen
    except DoesNotFitError as error:
        assert expected is None
        # Not even 3-bit linears and an 8-bit table
        least = _LINEARS[name] * _STORED_BITS["int3"] / 8 + _TABLE[name]
        assert least + _RESERVE + _STEP > gib * _GIB * 0.97
        assert "int2" not in str(error)
        return

    assert (chosen.weights, chosen.kv_bits, chosen.context_tokens) == expected
    used, head = chosen.bytes, chosen.head_bits / 8
    on_device = _LINEARS[name] * _STORED_BITS[chosen.weights] / 8 + _TABLE[name] * head
    if chosen.weights == "int3":
        on_device += _IN_GROUPS_OF_64.get(name, 0) * 16 / 128 / 8
    movable = _PER_LAYER.get(name, 0) * head + 2 * _TOWER[name]
    # Routers, norms and scales of rows, and the rounded sizes of towers, are the rest
    assert on_device <= used.weights + used.host - movable + 0.02e9 <= on_device + 0.08e9
    assert abs(used.host - movable * chosen.on_host) < 0.03e9
    assert used.total <= gib * _GIB


def test_no_card_gets_a_cache_below_4_bits_or_2_bit_weights() -> None:
    given = [each for row in _EXPECTED.values() for each in row if each]

    assert {weights for weights, _, _ in given} == {"bf16", "int8", "int4", "int3"}
    assert min(bits for _, bits, _ in given) == 4


def test_3_bits_are_taken_where_4_leave_fewer_than_65_536_tokens() -> None:
    taken = [
        (model, gib)
        for model in known_models()
        for gib, each in zip(_CARDS, _EXPECTED[model.short_name], strict=True)
        if each and each[0] == "int3"
    ]

    assert len(taken) == 4
    for model, gib in taken:
        shape, card = ModelShape.from_config(model.config), planned_card(gib * _GIB)
        try:
            four = make_plan(shape, card, Settings(weights="int4", kv_bits=4)).chosen
        except DoesNotFitError:
            continue
        assert four.context_tokens < 65_536


def test_the_31b_on_16_gib_says_what_it_gave_up() -> None:
    shape = ModelShape.from_config(known_models()[0].config)

    reason = make_plan(shape, planned_card(16 * _GIB), Settings()).reason

    assert "3 instead of 16 bits of weights, 4 instead of 16 bits of KV cache" in reason
    assert "233,728 instead of 262,144 tokens of context. Answers noticeably worse" in reason
    assert "Or take --model 26b-a4b, which fits with int4 weights and 262,144 tokens." in reason


def test_the_model_that_is_taken_on_each_card() -> None:
    """The largest with 4 bits or more that reads 65,536 tokens; what has 3 bits stands last."""
    found = {gib: [*fitting_models(planned_card(gib * _GIB), Settings())] for gib in _CARDS}

    assert {gib: rows[0].model.short_name for gib, rows in found.items()} == {
        **{4: "e2b", 6: "e4b", 8: "e4b", 12: "12b", 16: "26b-a4b"},
        **dict.fromkeys((20, 24, 32, 48, 80), "31b"),
    }
    assert found[8][-1].model.short_name == "12b"
    assert found[8][-1].plan.chosen.weights == "int3"


def test_the_host_takes_no_more_than_it_has_and_helps_only_cards_with_their_own_memory() -> None:
    """E2B keeps 2.35 GB in locked pages there; 2 GiB are left to everything else."""
    shape = ModelShape.from_config(known_models()[-1].config)
    card = planned_card(4 * _GIB)
    enough = replace(card, host_free_bytes=int(2.36e9) + 2 * _GIB)

    assert make_plan(shape, enough, Settings()).chosen.on_host
    for other in (
        replace(card, host_free_bytes=int(2.33e9) + 2 * _GIB),
        replace(card, source="main memory"),
        replace(card, torch_name="mps"),
    ):
        with pytest.raises(DoesNotFitError):
            make_plan(shape, other, Settings())
