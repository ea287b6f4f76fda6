"""Loading: what the plan says, and one sentence for every damaged folder."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rqchat.engine import loader
from rqchat.engine.events import Event, Notice
from rqchat.engine.hardware import DeviceInfo, planned_card
from rqchat.engine.loader import LoadedModel, load_model
from rqchat.engine.models import resolve_model
from rqchat.engine.plan import make_plan
from rqchat.engine.settings import Settings
from rqchat.errors import ModelError
from tests.helpers import SPECIAL_TOKENS

_CPU = DeviceInfo("CPU", 2**34, 2**34, "main memory", "cpu")


@pytest.fixture
def copied_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _load(
    folder: Path,
    weights: str | None = None,
    device: DeviceInfo = _CPU,
    on_event: Callable[[Event], None] = lambda event: None,
) -> LoadedModel:
    settings = Settings(model=str(folder), weights=weights, offline=True)
    source = resolve_model(settings, device.is_gpu)
    return load_model(source, make_plan(source.shape, device, settings), on_event, offline=True)


@pytest.mark.parametrize(("weights", "dtype"), [(None, torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_the_plans(tiny_folder: Path, weights: str | None, dtype: torch.dtype) -> None:
    loaded = _load(tiny_folder, weights)

    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
    assert not loaded.model.training
    assert loaded.stop_ids == {SPECIAL_TOKENS.index("<eos>"), SPECIAL_TOKENS.index("<turn|>")}
    assert loaded.load_s > 0


def test_weights_are_those_of_the_file(tiny_folder: Path) -> None:
    saved = load_file(tiny_folder / "model.safetensors")
    loaded = _load(tiny_folder).model.state_dict()

    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def _truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _scramble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def _drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.language_model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _reshape_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.language_model.norm.weight"] = torch.ones(3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    "damage", [_truncate, _scramble, _drop_a_tensor, _reshape_a_tensor, _no_tokenizer]
)
def test_a_damaged_folder_is_one_sentence(
    copied_folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(copied_folder)

    with pytest.raises(ModelError, match="download") as caught:
        _load(copied_folder)

    assert str(copied_folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_beside_the_weights_is_never_run(copied_folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w').close()\nclass Evil: pass\n"
    (copied_folder / "evil.py").write_text(code, encoding="utf-8")
    for name, classes in (
        ("config.json", {"AutoModelForImageTextToText": "evil.Evil", "AutoConfig": "evil.Evil"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "evil.Evil"]}),
        ("preprocessor_config.json", {"AutoImageProcessor": "evil.Evil"}),
    ):
        path = copied_folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": classes}))

    loaded = _load(copied_folder)

    assert type(loaded.model).__name__ == "Gemma4ForConditionalGeneration"
    assert not trace.exists()


@pytest.mark.parametrize(
    ("weights", "way_out"),
    [
        ("int8", "pip install bitsandbytes"),
        ("nf4", "pip install bitsandbytes"),
        ("int4", "pip install bitsandbytes"),
        ("int2", "--weights nf4"),
    ],
)
def test_weights_that_cannot_be_had_name_the_way_out(
    tiny_folder: Path, weights: str, way_out: str
) -> None:
    with pytest.raises(ModelError, match=way_out):
        _load(tiny_folder, weights)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gemma4_unified"}, "can be planned but not loaded yet"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "bf16 original"),
    ],
)
def test_models_that_cannot_be_loaded_yet_say_so(
    tiny_folder: Path, change: dict[str, object], reason: str
) -> None:
    settings = Settings(model=str(tiny_folder), weights="nf4")
    source = resolve_model(settings, has_gpu=False)
    changed = dataclasses.replace(source, config={**source.config, **change})

    with pytest.raises(ModelError, match=reason):
        load_model(changed, make_plan(source.shape, _CPU, settings), lambda event: None)


def test_a_gpu_that_torch_cannot_use(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ModelError, match=r"cannot use it.*install\.sh.*--device cpu"):
        _load(tiny_folder, device=planned_card(2**34))


def test_the_4_bit_rung_of_a_plain_checkpoint_is_nf4(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    settings = Settings(model=str(tiny_folder), weights="int4")
    source = resolve_model(settings, has_gpu=True)
    plan = make_plan(source.shape, planned_card(2**34), settings)
    events: list[Event] = []

    options = loader._weight_options(source, plan, events.append)

    assert options["quantization_config"].bnb_4bit_quant_type == "nf4"
    assert "vision_tower" in options["quantization_config"].llm_int8_skip_modules
    assert options["device_map"] == {"": "cuda:0"}
    assert [type(event) for event in events] == [Notice]
