"""Tensors that nobody reads: refused where they change a weight, named where they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rqchat.engine.events import Event, Notice
from rqchat.engine.model_files.resolve import resolve_model
from rqchat.engine.settings import Settings
from rqchat.errors import ModelError
from tests.engine.weights.loading import CPU, load

LAYER = "model.language_model.layers.0."


@pytest.fixture
def copied_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _add(folder: Path, *names: str) -> None:
    path = folder / "model.safetensors"
    added = {name: torch.ones(4) for name in names}
    save_file(load_file(path) | added, path, {"format": "pt"})


@pytest.mark.parametrize(
    "name",
    [
        LAYER + "self_attn.q_proj.weight_zero_point",
        LAYER + "self_attn.q_proj.weight_g_idx",
        LAYER + "mlp.down_proj.bias",
        LAYER + "mlp.down_proj.lora_A.weight",
        LAYER + "input_layernorm.bias",
        "lm_head.weight_scale",
    ],
)
def test_what_changes_a_weight_is_refused(copied_folder: Path, name: str) -> None:
    _add(copied_folder, name)

    with pytest.raises(ModelError, match=f"holds '{name}' beside weights.*bf16 original"):
        load(copied_folder)


def test_what_belongs_to_nothing_is_named(copied_folder: Path) -> None:
    _add(copied_folder, "model.mtp.0.weight", "model.language_model.rotary_emb.inv_freq")
    events: list[Event] = []

    load(copied_folder, on_event=events.append)

    (said,) = [event.text for event in events if isinstance(event, Notice)]
    assert "1 tensors of" in said
    assert "not read, such as 'model.mtp.0.weight'" in said


@pytest.mark.parametrize(
    ("key", "value"), [("transform_config", {"r1": {"type": "hadamard"}}), ("odd", [1])]
)
def test_a_packed_checkpoint_that_says_more_is_refused(
    copied_folder: Path, key: str, value: object
) -> None:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32}
    quantization: dict[str, object] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": weights}},
        "ignore": ["lm_head"],
    }
    path = copied_folder / "config.json"
    settings = Settings(model=str(copied_folder), offline=True)
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"quantization_config": quantization}), encoding="utf-8")
    assert resolve_model(settings, CPU).formats == ("int4", "int3", "int2")
    quantization[key] = value
    path.write_text(json.dumps(config | {"quantization_config": quantization}), encoding="utf-8")

    with pytest.raises(ModelError, match=f"with {key} .*rqchat cannot read"):
        resolve_model(settings, CPU)
