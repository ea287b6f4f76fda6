"""Bytes of vLLM's pages by hand, and the fewest cards for several users."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rqchat.engine.outgrown.vllm_command import commands
from rqchat.engine.outgrown.vllm_memory import Cards, Demand, cards_for
from rqchat.engine.planning.known_models import known_model
from rqchat.engine.planning.shape import ModelShape

GIB = 2**30
NAME = "google/gemma-4-31B-it"


@pytest.fixture
def demand() -> Demand:
    known = known_model(NAME)
    assert known is not None
    return Demand(ModelShape.from_config(known.config), "bf16", 2, 20, 131_072)


def _cards(demand: Demand, card_bytes: int) -> Cards:
    found = cards_for(demand, card_bytes)
    assert found is not None
    return found


def test_keys_and_values_of_a_user_by_hand(demand: Demand) -> None:
    # 10 global layers of 4 heads x 512 and 50 sliding ones of 16 x 256: K and V, 16 bits. Pages of
    # 16 sliding tokens are as large as those of 32 global ones; a window begins within a page.
    global_bytes = 10 * 131_072 * 2 * 4 * 512 * 2
    sliding_bytes = 50 * (1024 + 16) * 2 * 16 * 256 * 2
    assert demand.user_bytes(1) == global_bytes + sliding_bytes
    assert demand.user_bytes(4) == (global_bytes + sliding_bytes) // 4
    # Eight cards have a copy each of four heads
    assert demand.user_bytes(8) == global_bytes // 4 + sliding_bytes // 8
    assert replace(demand, kv_bytes=1).user_bytes(1) == (global_bytes + sliding_bytes) // 2


@pytest.mark.parametrize("gib", [24, 48, 80, 131])
def test_what_is_chosen_fits_and_nothing_smaller_does(demand: Demand, gib: int) -> None:
    way = _cards(demand, gib * GIB)
    assert way.weight_bytes + way.kv_bytes + way.step_bytes <= 0.92 * gib * GIB
    assert way.users_each * way.replicas >= demand.users
    assert way.weight_bytes * way.tensor_parallel * way.stages >= 2 * 31_000_000_000
    assert _cards(replace(demand, users=40), gib * GIB).count > way.count / 2


def test_a_small_card_takes_several_machines_and_many_users_a_router(demand: Demand) -> None:
    alone = replace(demand, users=1, context_tokens=262_144)
    way = _cards(alone, 8 * GIB)
    assert way.stages > 1
    lines = list(commands(NAME, alone, way))
    assert lines[0].startswith("ray start --head")
    assert f"--pipeline-parallel-size {way.stages}" in "\n".join(lines)
    way = _cards(replace(demand, users=500), 80 * GIB)
    lines = list(commands(NAME, demand, way))
    assert way.replicas > 1
    assert lines[-3].count("http://HOST") == way.replicas
    assert lines[-1] == "rqchat --server http://ROUTER:8080"
