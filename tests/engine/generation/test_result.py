"""A prompt that is too long: both counts, and the ways out that there really are."""

from __future__ import annotations

import pytest

from rqchat.engine.generation.result import too_long
from rqchat.engine.planning.devices import planned_card
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings

_31B = ModelShape.from_config(known_models()[0].config)
_MOST = 262_144


@pytest.mark.parametrize(
    ("asked", "tokens", "way"),
    [
        (Settings(context_tokens=8192), 10_000, "ask for --context 11024"),
        (Settings(context_tokens=8192), 261_500, "ask for --context 262144"),
        # The plan takes more bits than reach so far; the error names the best that do
        (Settings(weights="int4", prefer="quality"), 200_000, "--kv-bits 8 --context 201024"),
        (Settings(weights="int4", kv_bits=16), 200_000, "take fewer bits with --kv-bits"),
    ],
)
def test_ways_out(asked: Settings, tokens: int, way: str) -> None:
    plan = make_plan(_31B, planned_card(23 * 2**30), asked)
    context = plan.chosen.context_tokens
    assert context < tokens
    error = too_long(tokens, plan, _MOST, goes_on=False)
    assert (error.input_tokens, error.context_tokens, error.exit_code) == (tokens, context, 4)
    said = str(error)
    assert f"{tokens:,}" in said and f"{context:,}" in said
    assert way in said and "/compact" not in said


def test_no_context_is_offered_that_the_model_does_not_know() -> None:
    plan = make_plan(_31B, planned_card(24 * 2**30), Settings(context_tokens=8192))
    said = str(too_long(300_000, plan, _MOST, goes_on=True, at_least=True))
    assert "at least 300,000 tokens" in said
    assert "--context" not in said and "--kv-bits" not in said
    assert "/compact in the chat" in said
