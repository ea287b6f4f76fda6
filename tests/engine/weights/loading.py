"""What the tests of loading share: a plan for a CPU, the load, and logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

from rqchat.engine.events import Event
from rqchat.engine.loading.loader import LoadedModel, load_model
from rqchat.engine.model_files.resolve import resolve_model
from rqchat.engine.planning.devices import DeviceInfo
from rqchat.engine.planning.plan import MemoryPlan, make_plan
from rqchat.engine.settings import Settings

__all__ = ["CPU", "divergence", "load", "logits_of", "plan_for", "reference_model"]

CPU = DeviceInfo("CPU", 2**34, 2**34, "main memory", "cpu")
_IDS = torch.arange(20, 60).reshape(2, 20)


def plan_for(
    folder: Path, weights: str | None, device: DeviceInfo = CPU, head_bits: int | None = None
) -> MemoryPlan:
    """The plan that `load` follows."""
    settings = Settings(model=str(folder), weights=weights, head_bits=head_bits, offline=True)
    return make_plan(resolve_model(settings, device).shape, device, settings)


def load(
    folder: Path,
    weights: str | None = None,
    *,
    device: DeviceInfo = CPU,
    on_event: Callable[[Event], None] = lambda event: None,
    head_bits: int | None = None,
    weight_bytes: int | None = None,
) -> LoadedModel:
    """Loads `folder` by its plan, or by one that allows the weights fewer bytes."""
    plan = plan_for(folder, weights, device, head_bits)
    if weight_bytes is not None:
        fewer = dataclasses.replace(plan.chosen.bytes, weights=weight_bytes)
        plan = dataclasses.replace(plan, chosen=dataclasses.replace(plan.chosen, bytes=fewer))
    source = resolve_model(Settings(model=str(folder), offline=True), device)
    return load_model(source, plan, on_event, offline=True)


def reference_model(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """transformers' own model over dense tensors, in their dtype."""
    dtype = next(iter(tensors.values())).dtype
    model = Gemma4ForConditionalGeneration._from_config(Gemma4Config(**config), dtype=dtype)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    return model.eval()


def logits_of(model: Any, *, own_layers: bool = False) -> torch.Tensor:
    """Of a fixed text, float32; with `own_layers` summed in the order of transformers' layers."""
    with torch.set_grad_enabled(own_layers):  # the short layers of a CPU have no gradients
        logits: torch.Tensor = model(input_ids=_IDS).logits
    return logits.detach().float()


def divergence(reference: torch.Tensor, found: torch.Tensor) -> float:
    """Mean Kullback-Leibler divergence of the next token."""
    wanted, got = reference.log_softmax(-1), found.log_softmax(-1)
    return float((wanted.exp() * (wanted - got)).sum(-1).mean())
