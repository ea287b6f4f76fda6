"""What a plan promises over all sizes of cards, all models and all that can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rqchat.engine.planning import memory
from rqchat.engine.planning import plan as plan_module
from rqchat.engine.planning.candidate import Candidate, expected_error
from rqchat.engine.planning.devices import DeviceInfo, planned_card
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import IMAGE_TOKEN_BUDGETS, KV_BITS, WEIGHTS, Settings
from rqchat.errors import DoesNotFitError

_31B = ModelShape.from_config(known_models()[0].config)
_GIB = 2**30
_asked = st.builds(
    Settings,
    head_bits=st.none() | st.sampled_from((8, 16)),
    prefer=st.none() | st.just("context"),  # quality and speed give up context for themselves
    weights=st.none() | st.sampled_from(WEIGHTS),
    kv_bits=st.none() | st.sampled_from(KV_BITS),
    context_tokens=st.none() | st.integers(1, 262_144),
    image_tokens=st.none() | st.sampled_from(IMAGE_TOKEN_BUDGETS),
)
_shapes = st.sampled_from([ModelShape.from_config(model.config) for model in known_models()])


@pytest.fixture(scope="module", autouse=True)
def _no_suggestions() -> Iterator[None]:
    """Plans of other models, for the words of a plan alone, take nine tenths of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "suggest_models", lambda *given: [])
        yield


def _within(asked: Settings, shape: ModelShape) -> Settings:
    """The same for a context that the model knows."""
    wanted = min(asked.context_tokens or 0, shape.max_context_tokens) or None
    return replace(asked, context_tokens=wanted)


def _without_vision(shape: ModelShape) -> ModelShape:
    return replace(shape, vision=0, vision_hidden=0, vision_intermediate=0)


def _context(shape: ModelShape, device: DeviceInfo, asked: Settings) -> int:
    try:
        return make_plan(shape, device, asked).chosen.context_tokens
    except DoesNotFitError:
        return 0


@settings(max_examples=60, deadline=None)
@given(
    asked=_asked,
    total=st.integers(1, 200 * _GIB) | st.integers(10 * _GIB, 40 * _GIB),
    more=st.integers(1, 40 * _GIB) | st.integers(1, _GIB),
    shape=_shapes | _shapes.map(_without_vision),
)
def test_more_memory_never_gives_less_context(
    asked: Settings, total: int, more: int, shape: ModelShape
) -> None:
    asked = _within(asked, shape)
    small, large = planned_card(total), planned_card(total + more)

    assert _context(shape, large, asked) >= _context(shape, small, asked)


@settings(max_examples=40, deadline=None)
@given(
    asked=_asked,
    total=st.integers(2 * _GIB, 100 * _GIB) | st.integers(10 * _GIB, 40 * _GIB),
    more=st.integers(1, 40 * _GIB) | st.integers(1, _GIB),
    shape=_shapes,
)
def test_more_memory_never_costs_quality_at_the_same_context(
    asked: Settings, total: int, more: int, shape: ModelShape
) -> None:
    asked = _within(asked, shape)
    try:
        small = make_plan(shape, planned_card(total), asked)
    except DoesNotFitError:
        return
    if small.chosen.context_tokens < small.asked_tokens:
        return  # then context comes before quality

    large = make_plan(shape, planned_card(total + more), asked)

    assert large.chosen.context_tokens == small.chosen.context_tokens
    assert expected_error(large.chosen, shape) <= expected_error(small.chosen, shape)


@settings(max_examples=60, deadline=None)
@given(
    asked=_asked,
    total=st.integers(4 * _GIB, 200 * _GIB),
    share=st.floats(0.1, 1.0),
    shape=_shapes | _shapes.map(_without_vision),
    name=st.sampled_from(("cuda:0", "mps", "cpu")),
)
def test_no_candidate_takes_more_than_is_free(
    asked: Settings, total: int, share: float, shape: ModelShape, name: str
) -> None:
    device = DeviceInfo("card", total, int(total * share), "test", name)
    asked = _within(asked, shape)
    try:
        plan = make_plan(shape, device, asked)
    except DoesNotFitError:
        return

    assert max(c.bytes.total for c in plan.candidates) <= device.free_bytes
    assert plan.chosen in plan.candidates
    assert plan.chosen.context_tokens <= plan.asked_tokens


def _without_chunk(candidate: Candidate) -> Candidate:
    return replace(
        candidate,
        chunk_tokens=0,
        bytes=replace(candidate.bytes, workspace=0, reserve=0, allocator=0),
    )


@settings(max_examples=60, deadline=None)
@given(
    asked=_asked,
    total=st.integers(10 * _GIB, 100 * _GIB),
    more=st.integers(1, 20 * _GIB) | st.integers(1, _GIB),
)
def test_a_longer_prefill_step_costs_nothing_else(asked: Settings, total: int, more: int) -> None:
    card = planned_card(total)
    try:
        plan = make_plan(_31B, card, asked)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "_LONG_CHUNKS", ())
            short = make_plan(_31B, card, asked)
    except DoesNotFitError:
        return

    assert _without_chunk(plan.chosen) == _without_chunk(short.chosen)
    assert [*map(_without_chunk, plan.candidates)] == [*map(_without_chunk, short.candidates)]
    # And more free memory never gives a shorter one for the same weights and cache
    larger = make_plan(_31B, replace(card, free_bytes=total + more), asked)
    longest = {_without_chunk(c): c.chunk_tokens for c in larger.candidates}
    for candidate in plan.candidates:
        after = longest.get(_without_chunk(candidate), candidate.chunk_tokens)
        assert after >= candidate.chunk_tokens


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(10 * _GIB, 200 * _GIB),
    context=st.integers(1, 131_072),
    image_tokens=st.none() | st.sampled_from(IMAGE_TOKEN_BUDGETS),
    shape=_shapes,
    row=st.integers(0, 1000),
)
def test_forcing_a_rung_never_changes_its_bytes(
    total: int, context: int, image_tokens: int | None, shape: ModelShape, row: int
) -> None:
    asked = Settings(context_tokens=context, image_tokens=image_tokens)
    try:
        free = make_plan(shape, planned_card(total), asked).candidates
    except DoesNotFitError:
        return
    found = free[row % len(free)]
    forced = replace(asked, weights=found.weights, kv_bits=found.kv_bits)

    # All of it: weights, caches, workspace and reserve, for the same context and prefill step
    assert make_plan(shape, planned_card(total), forced).chosen == found
    with_head = replace(forced, head_bits=found.head_bits)
    assert make_plan(shape, planned_card(total), with_head).chosen == found
