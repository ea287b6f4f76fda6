"""The workspace of a plan against the tensors that the GPU's own code makes, at true shapes."""

from __future__ import annotations

from typing import Any

import pytest

from rqchat.engine.planning.formats import weights_of
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.memory import Budget, Economy
from rqchat.engine.planning.shape import ModelShape
from tests.engine.planning.meta_device import chunk_bytes, pretend_gpu

pytestmark = pytest.mark.slow
_HISTORY_TOKENS = 16_384 + 576  # two whole pieces of packed tokens, and what stays exact
_31B, _26B, _E4B, _E2B = (known_models()[index].config for index in (0, 1, 3, 4))


def _shallow(config: Any) -> dict[str, Any]:
    """The same with a layer of each kind: a step's own tensors do not depend on their number.

    Where some borrow, as many again, which do.
    """
    text, kinds = dict(config["text_config"]), ["sliding_attention", "full_attention"]
    if text.get("num_kv_shared_layers"):
        text["num_kv_shared_layers"] = 2
        kinds *= 2
    return {**config, "text_config": text | {"num_hidden_layers": len(kinds), "layer_types": kinds}}


@pytest.mark.parametrize(
    ("config", "weights", "kv_bits", "chunk_tokens", "calibrated"),
    [
        (_31B, "bf16", 16, 2048, False),
        (_31B, "bf16", 4, 2048, False),
        (_31B, "bf16", 4, 2048, True),
        (_31B, "int4", 6, 512, True),
        (_31B, "int4", 16, 512, False),
        (_31B, "int3", 5, 1024, False),
        (_26B, "int4", 8, 512, False),
        (_26B, "int2", 16, 2048, False),
        (_E4B, "int8", 16, 2048, False),
        (_E4B, "int4", 3, 512, True),
        (_E2B, "bf16", 4, 512, False),
    ],
)
def test_a_prefill_step_takes_what_is_planned(
    monkeypatch: pytest.MonkeyPatch,
    config: Any,
    weights: str,
    kv_bits: int,
    chunk_tokens: int,
    calibrated: bool,
) -> None:
    pretend_gpu(monkeypatch)
    asked = weights_of(weights), kv_bits, Economy(), _HISTORY_TOKENS + 2 * chunk_tokens
    whole, budget = (
        Budget(ModelShape.from_config(of), True, chunk_tokens, 280)
        for of in (config, _shallow(config))
    )
    planned = budget.of(*asked)
    space = budget.workspace(*asked[:2], asked[3])

    caches, taken, _ = chunk_bytes(
        _shallow(config), weights, kv_bits, chunk_tokens, _HISTORY_TOKENS, calibrated=calibrated
    )

    kv = planned.kv_global + planned.kv_sliding
    kv -= 0 if calibrated else budget.calibration_bytes(*asked[:2])
    promised = kv + planned.workspace - space.product_bytes - space.capture_bytes
    assert caches <= taken <= promised
    # The promise is 2 % of all that is planned; the 31B's step without a calibration is near
    assert promised - taken < 0.01 * whole.of(*asked).total
    if config is _31B and not calibrated:
        assert promised - taken < 0.1 * space.total
