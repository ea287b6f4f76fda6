"""Fused layers against transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache, fuse_layers
from rotorquant.ops import attend, chunk, decode, dispatch
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens
from tests.rotorquant.ops.kernels import Spy, spied

pytest.importorskip("triton", reason="triton is not installed")


MODELS: dict[str, dict[str, Any]] = {
    "tied": {"num_hidden_layers": 2},
    "split": {"num_hidden_layers": 2, "attention_k_eq_v": False},
    "small": {
        "attention_k_eq_v": False,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "use_double_wide_mlp": True,
    },
}


def force(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    spies = spied(monkeypatch, "norm.norm_kernel", "gate.gate_kernel", "heads.heads_kernel")
    for other in (attend, chunk, decode):  # round to float16, if this torch knows GPUs
        monkeypatch.setattr(other, "_kernel", None)
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: True)
    return spies


@pytest.mark.parametrize("kind", MODELS)
def test_a_fused_model_says_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gemma(**MODELS[kind])
    tokens, layers = random_tokens(1, 9), model.config.num_hidden_layers
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "layer_scalar"):
                module.layer_scalar.fill_(0.7)
        wanted = model(tokens, past_key_values=RotorQuantCache(model, **SMALL_WINDOW)).logits
        assert fuse_layers(model) == fuse_layers(model) == layers
        plain = model(tokens, past_key_values=RotorQuantCache(model, **SMALL_WINDOW)).logits
        assert torch.equal(plain, wanted)
        spies = force(monkeypatch)
        own = model(tokens, past_key_values=RotorQuantCache(model, **SMALL_WINDOW)).logits
    # float32 with other orders of sums, through four layers at most
    torch.testing.assert_close(own, wanted, atol=1e-4, rtol=0)
    # Layers with inputs of their own; those that borrow K and V get the last token alone
    extra = layers if kind == "small" else 0
    cut = 1 if kind == "small" else 0
    counts = {name: spy.launches for name, spy in spies.items()}
    assert counts == {
        # A layer's last one is also the first of the next layer, or the norm behind all
        "norm_kernel": 1 + 2 * layers + extra + cut,
        "gate_kernel": layers + extra,
        "heads_kernel": layers,
    }


def test_gradients_take_the_model_s_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gemma()
    fuse_layers(model)
    spies = force(monkeypatch)
    model(random_tokens(1, 5)).logits.sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None
    assert all(spy.launches == 0 for spy in spies.values())


def test_what_is_not_known_is_left_alone() -> None:
    assert fuse_layers(llama()) == 0
    assert fuse_layers(gemma(hidden_activation="silu")) == 0
    offloaded = gemma()
    offloaded.model.layers[2].mlp.up_proj._hf_hook = object()
    assert fuse_layers(offloaded) == 2
