"""GGUF files made by the `gguf` package, through the real loader."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rqchat.engine.loading.loader import load_model
from rqchat.engine.model_files import fetch
from rqchat.engine.model_files.gguf_header import BLOCKS, read_gguf
from rqchat.engine.model_files.gguf_precision import GgufPrecision, gguf_precision
from rqchat.engine.model_files.resolve import ModelSource, resolve_model
from rqchat.engine.planning.devices import planned_card
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.settings import Settings
from rqchat.engine.weights.files.gguf_blocks import pack_q4_0, unpack
from rqchat.engine.weights.modules import PackedLinear
from rqchat.errors import ModelError
from tests.engine.weights.checkpoints import (
    EVEN_CONFIG,
    MIXTURE_CONFIG,
    is_decoder_linear,
    tensors_of,
)
from tests.engine.weights.loading import CPU, divergence, load, logits_of, plan_for, reference_model
from tests.engine.weights.module_bytes import module_bytes
from tests.helpers import build_tiny_model

gguf = pytest.importorskip("gguf", reason="gguf is not installed")


# The package takes 30 ms to make a table
_name_table = functools.cache(gguf.get_tensor_name_map)


def _gguf_name(name: str) -> str:
    """By gguf's own tables, after the renaming that llama.cpp's converter does."""
    plain = name.replace("model.vision_tower.encoder.", "vision_model.model.")
    plain = plain.replace(".linear.weight", ".weight")
    # The converter's own names for what the tables do not know
    plain = plain.replace("router.per_expert_scale", "experts.down_proj.scale")
    if plain.endswith("router.scale"):
        plain = plain.replace("router.scale", "router.proj.scale")
    if name.endswith(("layer_scalar", "position_embedding_table", "gate_up_proj", "down_proj")):
        plain += ".weight"
    kinds = gguf.MODEL_ARCH
    table = _name_table(kinds.MMPROJ if "vision" in name else kinds.GEMMA4, 12)
    found = table.get_name(plain.replace("language_model.", ""), (".weight", ".bias", ".scale"))
    assert found, name
    return str(found)


def _stored(name: str, tensor: torch.Tensor, linears: str) -> tuple[Any, Any, torch.Tensor]:
    """numpy data, block type, and what they stand for; linear layers in blocks of `linears`."""
    kinds = gguf.GGMLQuantizationType
    if is_decoder_linear(name, tensor) or ".experts." in name:
        kind = kinds[linears]
        blocks = gguf.quants.quantize(tensor.float().numpy(), kind)
        return blocks, kind, torch.from_numpy(gguf.quants.dequantize(blocks, kind))
    if name.endswith("embed_tokens.weight"):
        blocks = gguf.quants.quantize(tensor.float().numpy(), kinds.Q8_0)
        return blocks, kinds.Q8_0, torch.from_numpy(gguf.quants.dequantize(blocks, kinds.Q8_0))
    if name.endswith("patch_embedder.input_proj.weight"):
        side = int((tensor.shape[1] // 3) ** 0.5)
        image = tensor.half().view(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()
        return image.numpy(), kinds.F16, tensor.half()
    if "vision_tower.encoder" in name and tensor.ndim == 2:
        return tensor.half().numpy(), kinds.F16, tensor.half()
    return tensor.float().numpy(), kinds.F32, tensor


def _write(
    path: Path, tensors: dict[str, torch.Tensor], linears: str = "Q4_0"
) -> dict[str, torch.Tensor]:
    """Returns what the file stands for."""
    writer = gguf.GGUFWriter(path, "gemma4")
    writer.add_block_count(6)
    writer.add_token_list([f"token {index}" for index in range(50)])
    writer.add_token_scores([0.5] * 50)
    writer.add_sliding_window_pattern([True, False])
    writer.add_custom_alignment(64)
    stands_for = {}
    for name, tensor in tensors.items():
        data, kind, stands_for[name] = _stored(name, tensor, linears)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=kind)
    writer.add_tensor("rope_freqs.weight", torch.ones(16).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for


def _write_folder(
    folder: Path, config: dict[str, Any], linears: str = "Q4_0"
) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder with a text model, an image tower and the small files, and what they stand for."""
    build_tiny_model(folder, config=config)
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    text = {name: tensor for name, tensor in tensors.items() if "vision" not in name}
    tower = {name: tensor for name, tensor in tensors.items() if "vision" in name}
    stands_for = _write(folder / "tiny_q4_0.gguf", text, linears)
    return folder, stands_for | _write(folder / "mmproj-tiny.gguf", tower)


@pytest.fixture(scope="module")
def q4_0(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    return _write_folder(tmp_path_factory.mktemp("gguf"), EVEN_CONFIG)


def test_google_s_gguf_repository_is_the_31b_in_4_bits(
    q4_0: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "google/gemma-4-31B-it-qat-q4_0-gguf"
    source = resolve_model(Settings(model=name, offline=True), planned_card(2**35))
    assert source.formats == ("int4", "int2")
    # The file's size as catalogues quote it, with 1.1 GB for the image tower
    assert source.download_bytes("int4") == pytest.approx(17.7e9 + 1.1e9, rel=0.01)
    weights, small = tmp_path / "weights", tmp_path / "small"
    weights.mkdir()
    small.mkdir()
    for path in q4_0[0].iterdir():
        shutil.copy(path, weights if path.suffix == ".gguf" else small)
    here = {name: weights, "google/gemma-4-31B-it": small}
    monkeypatch.setattr(fetch, "local_folder", here.get)

    config = json.loads((small / "config.json").read_text())
    tiny = ModelSource(name, config, None)
    settings = Settings(model=name, weights="int4", offline=True)
    loaded = load_model(
        tiny, make_plan(tiny.shape, CPU, settings), lambda event: None, offline=True
    )

    assert torch.equal(logits_of(loaded.model), logits_of(load(q4_0[0], "int4").model))
    here.pop("google/gemma-4-31B-it")
    with pytest.raises(ModelError, match=r"tokenizer from google/gemma-4-31B-it.*--offline"):
        load_model(tiny, make_plan(tiny.shape, CPU, settings), lambda event: None, offline=True)


@pytest.mark.parametrize(
    ("linears", "weights", "on_a_card", "bits"),
    [("Q8_0", "int8", "int8", 8), ("BF16", "fp32", "bf16", 16), ("F32", "fp32", "bf16", 32)],
)
def test_a_file_is_read_at_what_its_blocks_hold(
    tmp_path: Path, linears: str, weights: str, on_a_card: str, bits: int
) -> None:
    folder, stands_for = _write_folder(tmp_path, EVEN_CONFIG, linears)
    settings = Settings(model=str(folder), offline=True)
    source = resolve_model(settings, CPU)
    said: list[str] = []

    def load_as(settings: Settings) -> Any:
        plan = make_plan(source.shape, CPU, settings, source.formats)
        return plan, load_model(source, plan, lambda e: said.append(getattr(e, "text", "")))

    plan, loaded = load_as(settings)

    assert plan.chosen.weights == weights
    exact = logits_of(reference_model(EVEN_CONFIG, {n: t.float() for n, t in stands_for.items()}))
    # Measured 0.0000 to 0.007, and 0.09 at 4 bits
    assert divergence(exact, logits_of(loaded.model)) < 0.02
    assert not any("are read at" in text for text in said)
    card = make_plan(source.shape, planned_card(2**34), settings, source.formats)
    assert card.chosen.weights == on_a_card
    own = dataclasses.replace(settings, weights=on_a_card)
    assert make_plan(source.shape, CPU, own, source.formats).chosen.weights == on_a_card

    lower, _ = load_as(dataclasses.replace(settings, weights="int4"))

    assert f"{folder} holds {bits}-bit weights; they are read at 4 bits" in said
    if source.formats:
        assert "holds 8-bit weights; they are read at 4 bits" in lower.reason


def test_a_few_matrices_of_more_bits_do_not_make_a_file_one_of_them(
    q4_0: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mixed.gguf", "gemma4")
    for layer, kind in enumerate(["Q4_0"] * 19 + ["Q8_0"]):
        kind = gguf.GGMLQuantizationType[kind]
        blocks = gguf.quants.quantize(torch.randn(2, 32).numpy(), kind)
        writer.add_tensor(f"blk.{layer}.attn_q.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    assert gguf_precision(tmp_path, "it") == GgufPrecision(4, 0.05)
    assert gguf_precision(q4_0[0], "it") == GgufPrecision(4, 0.0)


def _check_values(found: torch.Tensor, stored: torch.Tensor) -> None:
    """The product of a CPU takes scales as bfloat16, which a file has as float16."""
    torch.testing.assert_close(found, stored, rtol=2**-8, atol=0)


def test_q4_0_stays_packed(q4_0: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, stands_for = q4_0

    loaded = load(folder, "int4", head_bits=16)

    layers = {
        name: layer
        for name, layer in loaded.model.named_modules()
        if isinstance(layer, PackedLinear)
    }
    assert len(layers) == 7 + 6
    for name, layer in layers.items():
        _check_values(layer.packed.dequantize(), stands_for[f"{name}.weight"])
    dense = {name: tensor.to(torch.bfloat16) for name, tensor in stands_for.items()}
    reference = reference_model(EVEN_CONFIG, dense)
    assert divergence(logits_of(reference), logits_of(loaded.model)) < 0.003
    planned = plan_for(folder, "int4", head_bits=16).chosen.bytes.weights
    assert loaded.weight_bytes == module_bytes(loaded.model) == planned


def test_experts_of_q4_0_stay_packed(tmp_path: Path) -> None:
    folder, stands_for = _write_folder(tmp_path, MIXTURE_CONFIG)

    loaded = load(folder, "int4")

    planned = plan_for(folder, "int4").chosen.bytes.weights
    assert loaded.weight_bytes == module_bytes(loaded.model) == planned
    for name, expected in stands_for.items():
        if ".experts." in name:
            packed = loaded.model.get_submodule(name).packed
            _check_values(packed.dequantize().view(expected.shape), expected)
    dense = {name: tensor.bfloat16().float() for name, tensor in stands_for.items()}
    exact = logits_of(reference_model(MIXTURE_CONFIG, dense))
    # Measured 0.003; a near tie between experts falls otherwise in bfloat16
    assert divergence(exact, logits_of(loaded.model)) < 0.03


def test_the_image_tower_comes_from_the_mmproj_file(
    q4_0: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    folder, stands_for = q4_0

    found = load(folder, "bf16").model.state_dict()

    for name in (name for name in stands_for if "vision" in name):
        assert torch.equal(found[name], stands_for[name].to(torch.bfloat16)), name


def test_a_missing_image_tower_is_reported(
    q4_0: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(q4_0[0], tmp_path / "model"))
    (folder / "mmproj-tiny.gguf").unlink()

    with pytest.raises(ModelError, match=r"no image tower.*mmproj.*tiny_q4_0\.gguf"):
        load(folder, "int4")


def test_two_text_models_are_reported(
    q4_0: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(q4_0[0], tmp_path / "model"))
    shutil.copy(folder / "tiny_q4_0.gguf", folder / "other.gguf")

    with pytest.raises(ModelError, match=r"one GGUF file.*other\.gguf, tiny_q4_0\.gguf"):
        load(folder, "int4")


@pytest.mark.parametrize("kept", [3, 300, -5])
def test_a_cut_file_is_reported(
    q4_0: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, kept: int
) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes((q4_0[0] / "tiny_q4_0.gguf").read_bytes()[:kept])

    with pytest.raises(ModelError, match=r"tiny\.gguf.*download it again"):
        read_gguf(path, "it")


def test_blocks_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "gemma4")
    kind = gguf.GGMLQuantizationType.Q5_1
    blocks = gguf.quants.quantize(torch.randn(2, 32).numpy(), kind)
    writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(ModelError, match=r"attn_q.*type 7.*reads.*Q4_0.*q4_0 files"):
        read_gguf(tmp_path / "odd.gguf", "it")


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q6_K"])
def test_blocks_are_unpacked_as_gguf_unpacks_them(kind: str) -> None:
    values, size = BLOCKS[kind]
    raw = torch.randint(256, (6, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    at = 208 if kind == "Q6_K" else 0
    raw[:, at : at + 2] = torch.rand(6, 1).half().view(torch.uint8)
    expected = gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType[kind])

    found = unpack(raw.flatten(), kind, (2, 3 * values))

    assert torch.equal(found, torch.from_numpy(expected).view(2, -1).bfloat16())
    if kind == "Q4_0":
        packed = pack_q4_0(raw.flatten(), (2, 3 * values))
        assert torch.equal(packed.dequantize(), torch.from_numpy(expected).view(2, -1))
