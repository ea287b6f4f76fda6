"""From a name to a model's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from rqchat.engine.model_files import resolve
from rqchat.engine.model_files.fetch import fetch_model
from rqchat.engine.model_files.resolve import DEFAULT_GPU_MODEL, ModelSource, resolve_model
from rqchat.engine.planning.devices import DeviceInfo, planned_card
from rqchat.engine.settings import Settings
from rqchat.errors import ModelError

GIB = 2**30


@pytest.fixture
def copied_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


CPU = DeviceInfo("a CPU", 64 * GIB, 48 * GIB, "a test", "cpu")


def _resolve(model: str | Path, *, device: DeviceInfo = CPU, offline: bool = True) -> ModelSource:
    return resolve_model(Settings(model=str(model), offline=offline), device)


@pytest.mark.parametrize(
    ("card_gib", "name"),
    [
        (2, "pocket"),
        (12, "google/gemma-4-12B-it"),
        (24, DEFAULT_GPU_MODEL),
        (141, DEFAULT_GPU_MODEL),
    ],
)
def test_auto_is_the_largest_that_fits_the_card(card_gib: int, name: str) -> None:
    assert _resolve("auto", device=planned_card(card_gib * GIB)).name == name


def test_auto_on_a_cpu_is_the_largest_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    assert _resolve("auto").name == "pocket"
    monkeypatch.setattr(resolve, "_snapshot", lambda name: tiny_folder if "E4B" in name else None)
    assert _resolve("auto").name == "google/gemma-4-E4B-it"


@pytest.mark.parametrize("text", ["31b", "31B-it", "gemma4:31b", "Gemma-4-31B", "gemma 4 31b"])
def test_short_names(text: str) -> None:
    source = _resolve(text, device=planned_card(24 * GIB))
    assert (source.name, source.shape.parameters) == (DEFAULT_GPU_MODEL, 31_273_088_876)
    assert _resolve("26b").name == "google/gemma-4-26B-A4B-it"
    with pytest.raises(ModelError, match="give 26b-a4b, e4b, a hub id"):
        _resolve("4b")


def test_a_folder_is_taken_as_it_is(tiny_folder: Path) -> None:
    source = _resolve(tiny_folder)

    assert (source.name, source.folder) == (str(tiny_folder), tiny_folder)
    assert fetch_model(source, offline=True) == tiny_folder


def test_a_folder_goes_by_its_whole_path(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saved conversation names its model, and goes on from wherever it is resumed."""
    monkeypatch.chdir(tiny_folder.parent)
    assert _resolve(f"./{tiny_folder.name}").name == str(tiny_folder)
    assert _resolve(tiny_folder.name).name == str(tiny_folder)


def test_a_cached_hub_model_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    def cached(name: str, file: str) -> str:
        assert (name, file) == ("someone/tiny", "config.json")
        return str(tiny_folder / "config.json")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: str(tiny_folder)
    )

    source = _resolve("someone/tiny")

    assert source.name == "someone/tiny"
    assert fetch_model(source, offline=True) == tiny_folder


def test_an_unknown_hub_model_offline_names_the_ways_out() -> None:
    with pytest.raises(ModelError, match="not on this machine.*--offline.*--model pocket"):
        _resolve("someone/not-here")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        _resolve(name)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no model: a model folder holds config.json"):
        _resolve(tmp_path)


def test_another_familys_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")

    with pytest.raises(ModelError, match="family 'llama'; rqchat runs Gemma 4.*as --model goo"):
        _resolve(tmp_path)


@pytest.mark.parametrize(
    "quantization",
    [{"quant_method": "awq", "bits": 4}, {"quant_method": "compressed-tensors"}, "awq", ["awq"]],
)
def test_a_quantization_that_cannot_be_read_is_refused_before_any_plan(
    copied_folder: Path, quantization: object
) -> None:
    config = json.loads((copied_folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = quantization
    (copied_folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    with pytest.raises(ModelError, match="quantized as .*cannot read; take its bf16 original"):
        _resolve(copied_folder)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_broken_config(copied_folder: Path, text: str) -> None:
    (copied_folder / "config.json").write_text(text, encoding="utf-8")

    with pytest.raises(ModelError, match=r"config\.json"):
        _resolve(copied_folder)


def test_missing_weights(copied_folder: Path) -> None:
    (copied_folder / "model.safetensors").unlink()

    with pytest.raises(ModelError, match="1 of 1 weight files are missing.*model.safetensors"):
        _resolve(copied_folder)


def test_a_missing_shard_is_named(copied_folder: Path) -> None:
    weights = copied_folder / "model.safetensors"
    weights.rename(copied_folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "second.safetensors"}}
    (copied_folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ModelError, match="1 of 2 weight files .*second.safetensors"):
        _resolve(copied_folder)


def test_pickled_weights_are_refused(copied_folder: Path) -> None:
    (copied_folder / "model.safetensors").rename(copied_folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match="only safetensors"):
        _resolve(copied_folder)
