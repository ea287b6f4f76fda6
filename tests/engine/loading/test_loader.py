"""Loading: what the plan says, and one sentence for every damaged folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rqchat.engine.events import Event, LoadProgress
from rqchat.engine.loading import loader
from rqchat.engine.planning.devices import planned_card
from rqchat.engine.weights.transfer import ByteStream
from rqchat.errors import ModelError
from tests.engine.weights.loading import load
from tests.helpers import SPECIAL_TOKENS


@pytest.fixture
def copied_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.mark.parametrize(("weights", "dtype"), [(None, torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_the_plans(tiny_folder: Path, weights: str | None, dtype: torch.dtype) -> None:
    loaded = load(tiny_folder, weights)

    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
    assert not loaded.model.training
    assert loaded.stop_ids == {SPECIAL_TOKENS.index("<eos>"), SPECIAL_TOKENS.index("<turn|>")}
    assert loaded.load_s > 0


def test_weights_are_those_of_the_file(tiny_folder: Path) -> None:
    saved = load_file(tiny_folder / "model.safetensors")
    loaded = load(tiny_folder).model.state_dict()

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
        load(copied_folder)

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

    loaded = load(copied_folder)

    assert type(loaded.model).__name__ == "Gemma4ForConditionalGeneration"
    assert not trace.exists()


@pytest.mark.parametrize("weights", ["int8-bnb", "nf4"])
def test_weights_that_cannot_be_had_name_the_way_out(
    tiny_folder: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    with pytest.raises(ModelError, match=r"pip install bitsandbytes.*--weights int8"):
        load(tiny_folder, weights)


def test_groups_that_do_not_divide_a_layer_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"96 inputs.*groups of 64.*--weights"):
        load(tiny_folder, "int2")


_W4A16 = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32}


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"quant_method": "bitsandbytes"}, "as bitsandbytes"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "as .* nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": _W4A16 | {"group_size": 128}}},
            },
            "group_size 128",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"group_0": {"weights": _W4A16 | {"actorder": "group"}}},
            },
            "actorder 'group'",
        ),
    ],
)
def test_an_unknown_quantization(
    copied_folder: Path, quantization: dict[str, object], said: str
) -> None:
    path = copied_folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": quantization}
    path.write_text(json.dumps(config))

    with pytest.raises(ModelError, match=f"{said}.*bf16 original"):
        load(copied_folder, "bf16")


def test_more_bytes_than_planned_stop_the_load_before_it_begins(tiny_folder: Path) -> None:
    events: list[Event] = []

    with pytest.raises(ModelError, match=r"more than was planned.*--weights"):
        load(tiny_folder, on_event=events.append, weight_bytes=1000)

    assert events == []


def test_a_device_that_fills_up_meanwhile_stops_the_load(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([10**9] * 20 + [10] * 10**4)
    monkeypatch.setattr(loader, "_free_bytes", lambda device: next(left))
    events: list[Event] = []

    with pytest.raises(ModelError, match=r"stopped.*still to come.*other programs"):
        load(tiny_folder, on_event=events.append)

    assert isinstance(events[0], LoadProgress)
    assert all(e.done_bytes < e.total_bytes for e in events if isinstance(e, LoadProgress))


def test_running_out_of_memory_is_one_sentence(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(ByteStream, "read", full)

    with pytest.raises(ModelError, match=r"ran out of GPU memory.*--weights.*2 GiB$"):
        load(tiny_folder)


def test_a_sum_that_differs_is_reported(copied_folder: Path) -> None:
    weights = copied_folder / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    sums = copied_folder / "SHA256SUMS"
    sums.write_text(f"{digest}  model.safetensors\n{'0' * 64}  other.bin\n")
    load(copied_folder)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.safetensors is not the file.*download it again"):
        load(copied_folder)


def test_a_gpu_that_torch_cannot_use(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)

    with pytest.raises(ModelError, match=r"cannot use it.*install\.sh.*--device cpu"):
        load(tiny_folder, device=planned_card(2**34))
