"""Weights in main memory: the same numbers, the bytes of the plan, and nothing left on the way."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rqchat.engine.loading.loader import LoadedModel, load_model
from rqchat.engine.model_files.resolve import resolve_model
from rqchat.engine.planning.formats import weights_of
from rqchat.engine.planning.memory import Budget
from rqchat.engine.settings import Settings
from rqchat.engine.weights import host_embedding
from rqchat.engine.weights.host_embedding import HostEmbedding
from rqchat.engine.weights.host_tower import bring_when_used
from tests.engine.weights.loading import CPU, load, logits_of, plan_for
from tests.engine.weights.module_bytes import module_bytes
from tests.helpers import TINY_CONFIG, build_tiny_model, small_e_model

_CONFIG = small_e_model(TINY_CONFIG, hidden_size_per_layer_input=32, vocab_size_per_layer_input=271)


@pytest.fixture(scope="module")
def e_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """E2B in small: per-layer embeddings, and towers for pictures and for sound."""
    return build_tiny_model(tmp_path_factory.mktemp("e"), config=copy.deepcopy(_CONFIG))


def _load_on_host(folder: Path, weights: str, head_bits: int) -> LoadedModel:
    """As a plan for a GPU would have it loaded, within the bytes that such a plan counts."""
    plan = plan_for(folder, weights, head_bits=head_bits)
    source = resolve_model(Settings(model=str(folder), offline=True), CPU)
    host = Budget(source.shape, True, 512, 280).host_bytes(weights_of(weights), head_bits)
    fewer = dataclasses.replace(plan.chosen.bytes, weights=plan.chosen.bytes.weights - host)
    chosen = dataclasses.replace(plan.chosen, on_host=True, bytes=fewer)
    return load_model(
        source, dataclasses.replace(plan, chosen=chosen), lambda event: None, offline=True
    )


@pytest.mark.parametrize("head_bits", [16, 8])
@pytest.mark.parametrize("weights", ["bf16", "int4"])
def test_what_lies_on_the_host_gives_the_same_numbers(
    e_folder: Path, weights: str, head_bits: int
) -> None:
    there = load(e_folder, weights, head_bits=head_bits)

    apart = _load_on_host(e_folder, weights, head_bits)

    assert torch.equal(logits_of(apart.model), logits_of(there.model))
    table = apart.model.model.language_model.embed_tokens_per_layer
    assert isinstance(table, HostEmbedding)
    hosted = sum(tensor.nbytes for tensor in table.tensors)
    hosted += module_bytes(apart.model.model.vision_tower)
    hosted += module_bytes(apart.model.model.embed_vision)
    assert apart.weight_bytes == module_bytes(apart.model) - hosted
    assert apart.weight_bytes == there.weight_bytes - hosted


def test_nothing_is_loaded_for_sound(e_folder: Path) -> None:
    said: list[Any] = []
    loaded = load(e_folder, on_event=said.append)

    assert loaded.model.model.audio_tower is None
    assert not any("audio" in name for name, _ in loaded.model.named_modules())
    assert not [event for event in said if "were not read" in str(event)]


def test_a_tower_is_on_the_device_while_it_runs_and_no_longer(e_folder: Path) -> None:
    """The meta device stands for a GPU: a product of tensors on both would fail."""
    model = load(e_folder, "bf16").model
    tower, device = model.model.vision_tower, torch.device("meta")
    for module in tower.modules():  # what is computed lies on the device from the beginning
        for name in module._non_persistent_buffers_set:
            setattr(module, name, getattr(module, name).to(device))
    stored = {name: tensor.data_ptr() for name, tensor in tower.state_dict().items()}
    bring_when_used(tower, device)
    pixels = torch.zeros(1, 9, 3 * 16**2, device=device)
    places = torch.zeros(1, 9, 2, dtype=torch.long, device=device)

    for layer in tower.encoder.layers:
        layer.mlp(torch.zeros(1, 9, 32, dtype=torch.bfloat16, device=device))
    tower.patch_embedder(pixels, places, torch.zeros(1, 9, dtype=torch.bool, device=device))
    with pytest.raises(RuntimeError):
        tower.patch_embedder(pixels[..., :5], places, None)

    assert {name: t.data_ptr() for name, t in tower.state_dict().items()} == stored
    assert {tensor.device.type for tensor in tower.state_dict().values()} == {"cpu"}


def test_a_model_with_its_tower_on_the_host_is_where_its_text_is(e_folder: Path) -> None:
    """transformers takes the device of the first parameter for that of the model."""
    model = _load_on_host(e_folder, "int4", 8).model

    first = next(name for name, _ in model.named_parameters())
    assert ".language_model." in first


@pytest.mark.parametrize("columns", [7, 1024, 2050])
@pytest.mark.parametrize("dtype", [torch.int32, torch.bfloat16])
def test_rows_that_the_gpu_gathers_itself(
    columns: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather = pytest.importorskip("rqchat.engine.weights.kernels.gather")
    draw = torch.Generator().manual_seed(0)
    table = torch.randint(-100, 100, (40, columns), generator=draw).to(dtype)
    ids = torch.tensor([39, 0, 7, 7, 12])
    launched: list[int] = []
    kernel: Callable[..., torch.Tensor] = gather.gather_rows

    def counted(*given: torch.Tensor) -> torch.Tensor:
        launched.append(len(given))
        return kernel(*given)

    monkeypatch.setattr(gather, "gather_rows", counted)
    monkeypatch.setattr(host_embedding, "_kernel", gather)
    monkeypatch.setattr(host_embedding, "on_gpu", lambda tensor: True)

    assert torch.equal(host_embedding._taken(table, ids), table[ids])
    assert launched == [2]
