"""GGUF files in the names and blocks of llama.cpp, through the real loader."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rqchat.engine.loading.loader import load_model
from rqchat.engine.model_files import fetch
from rqchat.engine.model_files.gguf.gguf_files import gguf_files
from rqchat.engine.model_files.gguf.gguf_header import BLOCKS, GgufTensor, read_gguf
from rqchat.engine.model_files.gguf.gguf_precision import GgufPrecision, gguf_precision
from rqchat.engine.model_files.resolve import ModelSource, read_config, resolve_model
from rqchat.engine.planning.devices import planned_card
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings
from rqchat.engine.weights.files.gguf_blocks import pack_q4_0, unpack
from rqchat.engine.weights.files.open_source import open_source
from rqchat.engine.weights.modules import PackedLinear
from rqchat.engine.weights.transfer import ByteStream
from rqchat.errors import ModelError
from tests.engine.weights.checkpoints import E_CONFIG, EVEN_CONFIG, MIXTURE_CONFIG
from tests.engine.weights.gguf_models import blocks_of, write_gguf, write_gguf_folder
from tests.engine.weights.loading import CPU, divergence, load, logits_of, plan_for
from tests.engine.weights.module_bytes import module_bytes
from tests.helpers import TINY_CONFIG, build_tiny_model

gguf = pytest.importorskip("gguf", reason="gguf is not installed")

Stored = tuple[Path, dict[str, torch.Tensor]]
UNIFIED_CONFIG: dict[str, Any] = copy.deepcopy(EVEN_CONFIG) | {"model_type": "gemma4_unified"}
UNIFIED_CONFIG["text_config"]["model_type"] = "gemma4_unified_text"
UNIFIED_CONFIG["vision_config"] = {
    **{"model_type": "gemma4_unified_vision", "mm_embed_dim": 64, "mm_posemb_size": 32},
    **{"output_proj_dims": 64, "patch_size": 16, "pooling_kernel_size": 3},
}
WIDE_CONFIG: dict[str, Any] = copy.deepcopy(TINY_CONFIG)
"""As many layers as there are types of blocks, and rows of a superblock."""
WIDE_CONFIG["text_config"] |= {"hidden_size": 256, "intermediate_size": 256}
BLOCK_TYPES = [kind for kind in BLOCKS if kind not in ("F32", "F16", "BF16", "F64")]


def _written(
    folder: Path, config: dict[str, Any], linears: str | Iterator[str] = "Q4_0", **options: Any
) -> Stored:
    """A folder with GGUF files alone, and what they stand for."""
    source = build_tiny_model(folder / "source", config=config)
    (folder / "model").mkdir()
    return folder / "model", write_gguf_folder(source, folder / "model", linears, **options)


def _reference(config: dict[str, Any], tensors: dict[str, torch.Tensor], dtype: Any) -> Any:
    """transformers' own model over what the files stand for."""
    family = "Gemma4Unified" if config["model_type"] == "gemma4_unified" else "Gemma4"
    kind: Any = getattr(transformers, f"{family}ForConditionalGeneration")
    config = copy.deepcopy(config) | {"audio_config": None}
    model = kind._from_config(kind.config_class(**config), dtype=dtype)
    found = {name: tensor.to(dtype).reshape(tensor.shape) for name, tensor in tensors.items()}
    missing, _ = model.load_state_dict(found, strict=False)
    assert missing == ["lm_head.weight"]
    return model.eval()


@pytest.fixture(scope="module")
def q4_0(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return _written(tmp_path_factory.mktemp("gguf"), EVEN_CONFIG)


@pytest.mark.parametrize(
    ("config", "tokenizer"),
    [(EVEN_CONFIG, "gpt2"), (MIXTURE_CONFIG, "gemma4"), (UNIFIED_CONFIG, ""), (E_CONFIG, "")],
    ids=["31B", "26B", "12B", "E4B"],
)
def test_the_files_of_each_size_load_without_anything_beside_them(
    tmp_path: Path, config: dict[str, Any], tokenizer: str
) -> None:
    folder, stands_for = _written(tmp_path, config, tokenizer=tokenizer)
    if not tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
            shutil.copy(tmp_path / "source" / name, folder)
    source = resolve_model(Settings(model=str(folder), offline=True), CPU)
    original = ModelShape.from_config(copy.deepcopy(config) | {"audio_config": None})
    assert source.shape == original

    if not tokenizer:
        shutil.copytree(tmp_path / "source", folder, dirs_exist_ok=True)
        (folder / "model.safetensors").unlink()
    loaded = load(folder, "int4", head_bits=16)

    planned = plan_for(folder, "int4", head_bits=16).chosen.bytes.weights
    assert loaded.weight_bytes == module_bytes(loaded.model) == planned
    reference = _reference(config, stands_for, torch.bfloat16)
    # Measured 0.0002 to 0.003: scales in bfloat16, and near ties between experts
    assert divergence(logits_of(reference), logits_of(loaded.model)) < 0.03
    found, wanted = loaded.model.state_dict(), reference.state_dict()
    for name in (name for name in wanted if "vision" in name):
        assert torch.equal(found[name], wanted[name]), name


def test_a_file_with_every_type_of_block_is_the_model_that_gguf_makes_of_it(
    tmp_path: Path,
) -> None:
    kinds = iter(BLOCK_TYPES * 2)
    folder, stands_for = _written(tmp_path, WIDE_CONFIG, linears=kinds)
    used = {tensor.kind for tensor in read_gguf(folder / "tiny.gguf", "it").values()}
    assert used >= set(BLOCK_TYPES)

    loaded = load(folder / "tiny.gguf")

    exact = logits_of(_reference(WIDE_CONFIG, stands_for, torch.float32))
    torch.testing.assert_close(logits_of(loaded.model), exact, rtol=1e-4, atol=1e-4)
    for weights in ("int8", "int4"):
        packed = load(folder / "tiny.gguf", weights)
        planned = plan_for(folder / "tiny.gguf", weights).chosen.bytes.weights
        assert packed.weight_bytes == module_bytes(packed.model) == planned


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_blocks_are_unpacked_to_the_last_bit_as_gguf_unpacks_them(kind: str) -> None:
    values, size = BLOCKS[kind]
    drawn = torch.Generator().manual_seed(0)
    chance = torch.randint(256, (64, size), generator=drawn).to(torch.uint8)
    made = torch.from_numpy(blocks_of(torch.randn(64, values, generator=drawn), kind))
    # By chance scales are infinite, too, which numpy warns of
    for raw in (chance, made):
        with np.errstate(all="ignore"):
            expected = gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType[kind])

        found = unpack(raw.flatten(), GgufTensor(Path(), 0, 0, kind, (64, values)))

        bits = torch.from_numpy(expected).flatten()
        assert torch.equal(found.nan_to_num(7.0), bits.nan_to_num(7.0))
        if kind == "Q4_0":
            packed = pack_q4_0(made.flatten(), (64, values)).dequantize()
            assert raw is chance or torch.equal(packed.flatten(), bits)


def test_google_s_gguf_repository_is_the_31b_in_4_bits(
    q4_0: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "google/gemma-4-31B-it-qat-q4_0-gguf"
    source = resolve_model(Settings(model=name, offline=True), planned_card(2**35))
    assert source.formats == ("int4", "int3", "int2")
    # The file's size as catalogues quote it, with 1.1 GB for the image tower
    assert source.download_bytes("int4") == pytest.approx(17.7e9 + 1.1e9, rel=0.01)
    small = tmp_path / "small"
    shutil.copytree(q4_0[0].parent / "source", small)
    (small / "model.safetensors").unlink()
    here: dict[str, Path] = {name: q4_0[0], "google/gemma-4-31B-it": small}
    monkeypatch.setattr(fetch, "local_folder", here.get)
    tiny = ModelSource(name, read_config(small, name), None)
    plan = make_plan(tiny.shape, CPU, Settings(model=name, weights="int4", offline=True))

    loaded = load_model(tiny, plan, lambda event: None, offline=True)

    assert torch.equal(logits_of(loaded.model), logits_of(load(q4_0[0], "int4").model))
    # Without the repository that has the small files the GGUF file's own do
    here.pop("google/gemma-4-31B-it")
    assert load_model(tiny, plan, lambda event: None, offline=True).template is not None


def test_26b_in_4_bits_comes_from_google_s_own_gguf_file() -> None:
    source = resolve_model(Settings(model="26b", offline=True), planned_card(2**35))

    assert fetch.checkpoint_of(source.name, "int4") == f"{source.name}-qat-q4_0-gguf"
    # The file has 14,439,363,584 bytes; the image tower comes to that
    assert source.download_bytes("int4") == pytest.approx(14.44e9 + 1.15e9, rel=0.03)
    assert source.download_bytes("bf16") > 50e9


@pytest.mark.parametrize(
    ("linears", "weights", "on_a_card", "bits"),
    [("Q8_0", "int8", "int8", 8), ("BF16", "fp32", "bf16", 16), ("F32", "fp32", "bf16", 32)],
)
def test_a_file_is_read_at_what_its_blocks_hold(
    tmp_path: Path, linears: str, weights: str, on_a_card: str, bits: int
) -> None:
    folder, stands_for = _written(tmp_path, EVEN_CONFIG, linears)
    settings = Settings(model=str(folder), offline=True)
    source = resolve_model(settings, CPU)
    said: list[str] = []

    def load_as(settings: Settings) -> Any:
        plan = make_plan(source.shape, CPU, settings, source.formats)
        return plan, load_model(source, plan, lambda e: said.append(getattr(e, "text", "")))

    plan, loaded = load_as(settings)

    assert plan.chosen.weights == weights
    exact = logits_of(_reference(EVEN_CONFIG, stands_for, torch.float32))
    # Measured 0.0000 to 0.007, and 0.09 at 4 bits
    assert divergence(exact, logits_of(loaded.model)) < 0.02
    assert not any("are read at" in text for text in said)
    converted = f"Q8_0 blocks of {folder} are converted to int8 weights, which are off by about"
    assert any(converted in text for text in said) is (linears == "Q8_0")
    card = make_plan(source.shape, planned_card(2**34), settings, source.formats)
    assert card.chosen.weights == on_a_card
    own = dataclasses.replace(settings, weights=on_a_card)
    assert make_plan(source.shape, CPU, own, source.formats).chosen.weights == on_a_card

    lower, _ = load_as(dataclasses.replace(settings, weights="int4"))

    assert f"{folder} holds {bits}-bit weights; they are read at 4 bits" in said
    if source.formats:
        assert "holds 8-bit weights; they are read at 4 bits" in lower.reason


def test_a_few_matrices_of_more_bits_do_not_make_a_file_one_of_them(
    q4_0: Stored, tmp_path: Path
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mixed.gguf", "gemma4")
    for layer, kind in enumerate(["Q4_0"] * 19 + ["Q8_0"]):
        blocks = blocks_of(torch.randn(2, 32), kind)
        raw_dtype = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"blk.{layer}.attn_q.weight", blocks, raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    mixed = gguf_precision(gguf_files(tmp_path, "it"), "it")
    assert mixed == GgufPrecision(4, 0.05, ("Q8_0",))
    assert gguf_precision(gguf_files(q4_0[0], "it"), "it") == GgufPrecision(4, 0.0)


def test_q4_0_stays_packed(q4_0: Stored) -> None:
    folder, stands_for = q4_0

    loaded = load(folder, "int4", head_bits=16)

    layers = {
        name: layer
        for name, layer in loaded.model.named_modules()
        if isinstance(layer, PackedLinear)
    }
    assert len(layers) == 7 + 6
    for name, layer in layers.items():
        found, stored = layer.packed.dequantize(), stands_for[f"{name}.weight"]
        torch.testing.assert_close(found, stored, rtol=1e-6, atol=1e-6)


def test_newer_and_older_names_are_the_same_tensors(tmp_path: Path) -> None:
    folder, stands_for = _written(tmp_path, MIXTURE_CONFIG, "NVFP4", fused=True)
    config = read_config(folder / "tiny.gguf", "it")
    source = open_source(folder / "tiny.gguf", config, "it")

    assert source.names() and not [name for name in source.names() if "qkv" in name]
    with ByteStream(torch.device("cpu")) as stream:
        for name, expected in stands_for.items():
            if ".layers." in name and expected.ndim > 1 and "language" in name:
                assert source.shape(name) == expected.shape
                rows = source.rows(name, range(expected[..., 0].numel()), stream)
                assert torch.equal(rows.float(), expected.float().flatten(0, -2)), name


def test_a_file_in_parts_beside_others_is_one_model(tmp_path: Path) -> None:
    folder, _ = _written(tmp_path, EVEN_CONFIG, split_max_tensors=12)
    parts = sorted(folder.glob("tiny-*-of-*.gguf"))
    assert len(parts) > 2
    for other in ("mtp-tiny.gguf", "tiny-assistant.gguf"):
        write_gguf(folder / other, {}, tmp_path / "source", tokenizer="")

    files = gguf_files(folder, "it")

    assert (files.texts, files.tower) == (tuple(parts), folder / "mmproj-tiny.gguf")
    assert files == gguf_files(parts[1], "it")
    assert logits_of(load(folder, "int4").model).isfinite().all()
    parts[1].unlink()
    with pytest.raises(ModelError, match=rf"1 of its {len(parts)} parts.*{parts[1].name}"):
        gguf_files(folder, "it")


def test_a_missing_image_tower_is_reported(q4_0: Stored, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(q4_0[0], tmp_path / "model"))
    (folder / "mmproj-tiny.gguf").unlink()
    said: list[str] = []
    load(folder / "tiny.gguf", "int4", on_event=lambda e: said.append(getattr(e, "text", "")))
    assert any("no mmproj file of the same model beside tiny.gguf" in text for text in said)

    shutil.copytree(q4_0[0].parent / "source", folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no image tower.*mmproj.*tiny\.gguf"):
        load(folder, "int4")


def test_of_two_text_models_one_has_to_be_named(q4_0: Stored, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(q4_0[0], tmp_path / "model"))
    shutil.copy(folder / "tiny.gguf", folder / "other.gguf")

    with pytest.raises(ModelError, match=r"one GGUF file.*other\.gguf, tiny\.gguf; name the one"):
        load(folder, "int4")
    assert resolve_model(Settings(model=str(folder / "other.gguf")), CPU).file is not None


@pytest.mark.parametrize("kept", [3, 300, -5])
def test_a_cut_file_is_reported(q4_0: Stored, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes((q4_0[0] / "tiny.gguf").read_bytes()[:kept])

    with pytest.raises(ModelError, match=r"tiny\.gguf.*download it again"):
        read_gguf(path, "it")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"), r"lacks 1 tensors.*blk\.0\.attn_q\."),
        ((b"tokenizer.ggml.model", b"tokenizer.ggml.xxxxx"), "tiny.gguf holds no tokenizer"),
        ((b"tokenizer.ggml.tokens", b"tokenizer.ggml.xxxxxx"), "tokenizer.*cannot be read"),
        ((b"tokenizer.chat_template", b"tokenizer.chat_xxxxxxxx"), "chat template"),
        ((b"\x06\0\0\0\0\0\0\0gemma4", b"\x06\0\0\0\0\0\0\0llamas"), "family 'llamas'"),
        ((b"gemma4.block_count", b"gemma4.block_xxxxx"), "gemma4.block_count is None"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported(
    q4_0: Stored, tmp_path: Path, change: tuple[bytes, bytes], said: str
) -> None:
    path = tmp_path / "tiny.gguf"
    data = (q4_0[0] / "tiny.gguf").read_bytes()
    assert change[0] in data
    path.write_bytes(data.replace(*change))

    with pytest.raises(ModelError, match=said):
        load(path, "int4")


def test_an_image_part_is_no_model(q4_0: Stored) -> None:
    with pytest.raises(ModelError, match="is the image part of a model; give --model the file of"):
        load(q4_0[0] / "mmproj-tiny.gguf")


def test_blocks_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "gemma4")
    kind = gguf.GGMLQuantizationType.Q8_K
    data = torch.zeros(2, 292, dtype=torch.uint8).numpy()
    for name in ("blk.0.attn_q.weight", "a.blk.0.attn_q.weight"):
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with pytest.raises(ModelError, match=r"'blk\.0\.attn_q.*type 15.*reads.*Q4_0.*take a file"):
        read_gguf(tmp_path / "odd.gguf", "it")
