"""Layers in few torch calls: the numbers of transformers, and how many calls a step takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rotorquant import RotorQuantCache
from rotorquant.cpu_layers import shorten_layers
from tests.rotorquant.models import SMALL_WINDOW, gemma, random_tokens
from tests.rotorquant.test_fused_layers import MODELS


class Calls(TorchDispatchMode):
    """Counts what reaches torch's dispatcher."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Of a prompt and of three steps, in which the windows turn over and rows are packed."""
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    pieces = [tokens[:, :17], *tokens[:, 17:].split(1, dim=1)]
    with torch.inference_mode():
        return torch.cat([model(piece, past_key_values=cache).logits for piece in pieces], dim=1)


@pytest.mark.parametrize("kind", MODELS)
def test_a_shortened_model_says_the_same(kind: str) -> None:
    model, tokens = gemma(**MODELS[kind]), random_tokens(1, 20)
    for module in model.modules():
        if hasattr(module, "layer_scalar"):
            module.layer_scalar.fill_(0.7)
    wanted = logits_of(model, tokens)

    assert shorten_layers(model) == shorten_layers(model) == model.config.num_hidden_layers

    # float32 with other orders of sums, through four layers at most
    torch.testing.assert_close(logits_of(model, tokens), wanted, atol=1e-4, rtol=0)


def test_gradients_take_the_model_s_own_way() -> None:
    model = gemma(**MODELS["tied"])
    shorten_layers(model)
    model(random_tokens(1, 5)).logits.sum().backward()
    assert model.model.layers[0].self_attn.q_norm.weight.grad is not None


def test_a_step_takes_fewer_calls_than_the_model_s_own_layers() -> None:
    model, tokens = gemma(**MODELS["tied"]), random_tokens(1, 20)
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    counts = []
    with torch.inference_mode():
        model(tokens, past_key_values=cache)
        for _ in range(2):
            with Calls() as calls:
                model(tokens[:, :1], past_key_values=cache)
            counts.append(calls.count)
            shorten_layers(model)
    assert counts[1] < 0.85 * counts[0]  # measured 0.7
