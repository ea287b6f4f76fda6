"""A cache decodes through the kernels: prompts by the torch path, steps in Triton's interpreter.

The same tokens through the torch path give the logits to compare with.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache
from rotorquant.ops import dispatch
from tests.rotorquant.models import SMALL_WINDOW, gemma, random_tokens
from tests.rotorquant.ops.kernels import DEVICE, Spy, spied

pytest.importorskip("triton", reason="triton is not installed")


pytestmark = pytest.mark.slow
# Prompt and steps: a page is packed at the third of these, and while the third of drafts is read
SINGLE, DRAFTS = (77, [1] * 4), (70, [5, 1, 16, 3])
# Head sizes that kernels are made for.
SIZES: dict[str, Any] = {
    "head_dim": 32,
    "global_head_dim": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
}
# As in E2B: K and V apart, and the last layers read what others have stored.
UNTIED: dict[str, Any] = {
    "attention_k_eq_v": False,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "num_hidden_layers": 4,
    "layer_types": SIZES["layer_types"] * 2,
}


@pytest.fixture
def _kernels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    return decode_kernels(monkeypatch)


def decode_kernels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    """Spies on the kernels of a decode step; ops take them once `dispatch.on_gpu` says so."""
    return spied(
        monkeypatch,
        *("append.append_kernel", "attend.attend_kernel"),
        *("decode.decode_kernel", "decode.merge_kernel"),
        *("dequantize.dequantize_kernel", "quantize.quantize_kernel"),
    )


def read(model: Any, cache: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(tokens, past_key_values=cache).logits[:, -1]
    return logits


def chain(
    model: Any,
    tokens: torch.Tensor,
    prompt: int,
    steps: list[int],
    device: list[str],
    **options: Any,
) -> torch.Tensor:
    """Logits after every step on top of a prompt; `device` is where steps are."""
    cache = RotorQuantCache(model, **SMALL_WINDOW, **options)
    read(model, cache, tokens[:, :prompt])
    device.append("gpu")
    place, logits = prompt, []
    for step in steps:
        logits.append(read(model, cache, tokens[:, place : place + step]))
        place += step
    assert cache.packed_tokens > prompt - 8 - 24
    return torch.stack(logits)


@pytest.mark.parametrize(
    ("changes", "options", "reading"),
    [
        ({}, {"bits": 3, "mode": "planar", "sliding_bits": 8, "max_tokens": 200}, SINGLE),
        (UNTIED, {"bits": 4, "mode": "hadamard"}, SINGLE),
        ({}, {"bits": 4, "statistics": "none"}, DRAFTS),
        (UNTIED, {"bits": 16, "sliding_bits": 8}, DRAFTS),
    ],
    ids=["tied, int8 windows", "untied", "tied, drafts", "untied exact, drafts"],
)
def test_a_cache_decodes_through_the_kernels(
    changes: dict[str, Any],
    options: dict[str, Any],
    reading: tuple[int, list[int]],
    _kernels: dict[str, Spy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    # Layers that add little: float16 products would flip codes of int8 windows in the next ones
    model = gemma(branch=None, **SIZES | changes).to(DEVICE)
    prompt, steps = reading
    tokens = random_tokens(1, prompt + sum(steps)).to(DEVICE)
    device: list[str] = []
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: False)
    wanted = chain(model, tokens, prompt, steps, [], **options)
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: bool(device))
    logits = chain(model, tokens, prompt, steps, device, **options)
    # Products are float16; int8 windows hold a step's own keys as codes already.
    error = (logits - wanted).abs().max() / wanted.std()
    assert float(error) < (5e-2 if "sliding_bits" in options else 1e-2), float(error)
    layers = model.config.num_hidden_layers
    assert _kernels["decode_kernel"].launches == layers * len(steps)
    assert (_kernels["quantize_kernel"].launches > 0) == (options["bits"] < 16)
