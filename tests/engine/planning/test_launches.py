"""How many launches a decode step is, counted on the GPU's own code without a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rotorquant import RotorQuantCache, fuse_layers
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.weights.joined_products import JoinedProducts
from rqchat.engine.weights.modules import GRIDS
from rqchat.engine.weights.skeleton import build_skeleton
from tests.engine.planning.meta_device import pack_linears, pretend_gpu

_31B = known_models()[0].config


class Launches(TorchDispatchMode):
    """Counts torch's operators that run something; views and tensors without content do not."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name, made = func._schema.name, [t for t in tree_leaves(output) if torch.is_tensor(t)]
        views = func.is_view or name in ("aten::_unsafe_view", "aten::detach")
        if not views and "empty" not in name and any(tensor.numel() for tensor in made):
            self.counts[name] += 1
        return output


def launches_of_a_token(
    monkeypatch: pytest.MonkeyPatch, config: Mapping[str, Any], weights: str, kv_bits: int
) -> Counter[str]:
    """Every launch of a step of one token behind 16,484, by its name."""
    launches, current = Launches(), pretend_gpu(monkeypatch)
    monkeypatch.setattr(current, "launch", lambda name: launches.counts.update([name]))
    model = build_skeleton(config, torch.bfloat16, torch.device("cpu"))
    if weights in GRIDS:
        pack_linears(model, GRIDS[weights])
    fuse_layers(model, JoinedProducts())
    cache = RotorQuantCache(model, bits=kv_bits, max_tokens=20_000)
    model.to("meta")  # now, as a cache looks into the rotary's frequencies
    cache._finite_check.deferred_on = ("cuda", "meta")
    place = torch.zeros(1, 1, dtype=torch.long, device="meta")

    def read(tokens: int) -> None:
        ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
        places = {"position_ids": place} if tokens == 1 else {}
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **places)

    with torch.no_grad():
        for tokens in (8192, 8192, 99, 1):
            read(tokens)
        launches.counts.clear()
        step = torch.zeros(1, 1, dtype=torch.long, device="meta")
        with launches:
            model(step, position_ids=place, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return launches.counts


def test_a_token_of_the_31b_is_at_most_740_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a graph each costs a microsecond or two; version 0.1 had 1,205, without an offset."""
    counts = launches_of_a_token(monkeypatch, _31B, "int4", 4)
    assert counts.total() <= 740, counts
    kernels = {name: count for name, count in counts.items() if name.endswith("_kernel")}
    assert kernels == {
        "gemv_kernel": 3 * 60,  # Q, K and V; what comes out of attention; out of the MLP
        "gated_gemv_kernel": 60,
        "norm_kernel": 2 * 60 + 1,
        "heads_kernel": 60,
        "append_kernel": 60 + 1,  # and the position
        "decode_kernel": 60,
        "merge_kernel": 60,
    }
    # The output of a global layer, both rotary embeddings, and the position; no table
    assert counts["aten::_to_copy"] <= 10 + 4 + 1
