"""Small GGUF models with the names and metadata that llama.cpp's converter writes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from tests.engine.weights.checkpoints import is_decoder_linear

__all__ = ["blocks_of", "write_gguf", "write_gguf_folder"]

_KINDS = gguf.GGMLQuantizationType
# The package takes 30 ms to make a table
_name_table = functools.cache(gguf.get_tensor_name_map)
# What gguf 0.19 does not know yet of the 12B (llama.cpp, gguf-py/gguf/tensor_mapping.py)
_UNIFIED = {
    "patch_dense": "v.patch_embd", "pos_embedding": "v.position_embd.weight",
    "patch_ln1": "v.patch_norm.1", "patch_ln2": "v.patch_norm.2", "pos_norm": "v.patch_norm.3",
    "multimodal_embedder.embedding_projection": "mm.input_projection",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """By gguf's own tables, after the renaming that llama.cpp's converter does."""
    for ours, theirs in _UNIFIED.items():
        if name.startswith(f"model.embed_vision.{ours}"):
            return name.replace(f"model.embed_vision.{ours}", theirs)
    if "audio" in name:
        # Nobody reads them: any of the converter's names will do
        return "a." + name if "audio_tower" in name else "mm.a.input_projection.weight"
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
    suffixes = (".weight", ".bias", ".scale", ".input_min", ".input_max")
    suffixes += (".output_min", ".output_max")
    found = table.get_name(plain.replace("language_model.", ""), suffixes)
    assert found, name
    return str(found)


def blocks_of(tensor: torch.Tensor, kind: str) -> np.ndarray[Any, Any]:
    """The bytes of `tensor` in blocks of `kind`; random ones where gguf cannot make such blocks."""
    data = tensor.float().numpy()
    try:
        return np.asarray(gguf.quants.quantize(data, _KINDS[kind]))
    except NotImplementedError:
        return _random_blocks(tensor, kind)


def _random_blocks(tensor: torch.Tensor, kind: str) -> np.ndarray[Any, Any]:
    """Codes by chance, and scales for which the values are about as large as those of `tensor`."""
    values, size = gguf.GGML_QUANT_SIZES[_KINDS[kind]]
    rows, columns = tensor.flatten(0, -2).shape
    made = torch.Generator().manual_seed(rows + columns)
    raw = torch.randint(256, (rows * columns // values, size), generator=made).to(torch.uint8)
    scale = torch.tensor([float(tensor.std()) / 64]).half().view(torch.uint8)
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    for place in () if kind == "NVFP4" else places.get(kind, (0,)):
        raw[:, place : place + 2] = scale
    if kind == "NVFP4":
        raw[:, :4] &= 31
    if kind == "IQ1_M":  # the scale is spread over the upper bits of four words
        word = int(scale.view(torch.int16)) & 0xFFFF
        for place in range(4):
            raw[:, 49 + 2 * place] = raw[:, 49 + 2 * place] & 15 | (word >> 4 * place & 15) << 4
    return raw.view(*tensor.shape[:-1], -1).numpy()


def _stored(
    name: str, tensor: torch.Tensor, linears: str | Iterator[str]
) -> tuple[Any, Any, torch.Tensor]:
    """numpy data, block type, and what they stand for; linear layers in blocks of `linears`."""
    if is_decoder_linear(name, tensor) or ".experts." in name:
        # Files keep in 8 bits what superblocks do not divide
        fits = isinstance(linears, str) or tensor.shape[-1] % 256 == 0
        drawn = linears if isinstance(linears, str) else next(linears) if fits else "Q8_0"
        kind = _KINDS[drawn]
        blocks = blocks_of(tensor, kind.name)
        return blocks, kind, torch.from_numpy(gguf.quants.dequantize(blocks, kind))
    if name.endswith("embed_tokens.weight"):
        kind = _KINDS.F32 if linears == "F32" else _KINDS.Q8_0
        blocks = gguf.quants.quantize(tensor.float().numpy(), kind)
        return blocks, kind, torch.from_numpy(gguf.quants.dequantize(blocks, kind))
    if "vision" not in name or tensor.ndim < 2:
        return tensor.float().reshape(tensor.shape or (1,)).numpy(), _KINDS.F32, tensor
    if name.endswith("patch_embedder.input_proj.weight"):
        side = int((tensor.shape[1] // 3) ** 0.5)
        image = tensor.half().view(-1, side, side, 3).permute(0, 3, 1, 2).contiguous()
        return image.numpy(), _KINDS.F16, tensor.half()
    if "vision_tower.encoder" in name:
        return tensor.half().numpy(), _KINDS.F16, tensor.half()
    return tensor.float().numpy(), _KINDS.F32, tensor


def _fused(stored: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same tensors under newer names, and the factors of those that got one."""
    found, factors = {}, {}
    for key, (data, kind) in stored.items():
        layer = key.rpartition("attn_")[0]
        if key.endswith("ffn_gate_up_exps.weight"):
            half = data.shape[1] // 2
            for part, rows in (("gate", data[:, :half]), ("up", data[:, half:])):
                name = key.replace("gate_up", part)
                found[name] = np.ascontiguousarray(rows), kind
                scale = np.linspace(0.5, 2, len(data), dtype=np.float32)
                found[name.replace("weight", "scale")] = scale, _KINDS.F32
            factors[key] = torch.from_numpy(scale)[:, None, None]
        elif key.endswith("attn_q.weight"):
            keys = [f"{layer}attn_{part}.weight" for part in "qkv"]
            rows = [stored[each][0] for each in keys if each in stored]
            found[f"{layer}attn_qkv.weight"] = np.concatenate(rows), kind
            found[f"{layer}attn_qkv.scale"] = np.array([1.5], np.float32), _KINDS.F32
            found[f"{layer}attn_qkv.input_scale"] = np.array([9.0], np.float32), _KINDS.F32
            factors[f"{layer}attn_qkv.weight"] = 1.5
        elif not key.endswith(("attn_k.weight", "attn_v.weight")):
            found[key] = data, kind
    return found, factors


def _unified(name: str, data: Any) -> Any:
    """The 12B's image part in the order that the converter gives it."""
    if name.endswith("pos_embedding"):
        return np.ascontiguousarray(data.transpose(1, 0, 2))
    if name.endswith(("patch_dense.weight", "patch_ln1.weight", "patch_ln1.bias")):
        side = int((data.shape[-1] // 3) ** 0.5)
        place = np.arange(side * side * 3)
        colour, pixel = place // side**2, place % side**2
        return data[..., pixel // side * side * 3 + pixel % side * 3 + colour]
    return data


def _describe_text(writer: Any, config: Mapping[str, Any]) -> None:
    """What the converter writes of a text model (conversion/gemma.py of llama.cpp)."""
    full = AutoConfig.for_model(**config).text_config
    text = config["text_config"]
    layers, shared = full.num_hidden_layers, full.num_kv_shared_layers
    sliding = [kind == "sliding_attention" for kind in full.layer_types]
    per_layer = full.per_layer_config
    writer.add_block_count(layers)
    writer.add_context_length(full.max_position_embeddings)
    writer.add_embedding_length(full.hidden_size)
    wide = 2 if getattr(full, "use_double_wide_mlp", False) else 1
    inner = full.intermediate_size
    writer.add_feed_forward_length([inner] * (layers - shared) + [wide * inner] * shared)
    writer.add_head_count(full.num_attention_heads)
    writer.add_head_count_kv([per_layer[layer].num_key_value_heads for layer in range(layers)])
    writer.add_layer_norm_rms_eps(full.rms_norm_eps)
    heads = {is_sliding: per_layer[n].head_dim for n, is_sliding in enumerate(sliding)}
    for is_sliding, mark in ((False, ""), (True, "_swa")):
        for add in ("add_key_length", "add_value_length", "add_rope_dimension_count"):
            getattr(writer, add + mark)(heads[is_sliding])
    writer.add_sliding_window(full.sliding_window)
    writer.add_sliding_window_pattern(sliding)
    writer.add_shared_kv_layers(shared)
    writer.add_embedding_length_per_layer_input(text.get("hidden_size_per_layer_input") or 0)
    rope = full.rope_parameters
    writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    writer.add_final_logit_softcapping(full.final_logit_softcapping)
    if text.get("enable_moe_block"):
        writer.add_expert_count(text["num_experts"])
        writer.add_expert_used_count(text["top_k_experts"])
        writer.add_expert_feed_forward_length(text["moe_intermediate_size"])
    share = rope["full_attention"]["partial_rotary_factor"]
    turned = int(heads[False] * share / 2)
    factors = [1.0] * turned + [1e30] * (heads[False] // 2 - turned)
    writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))


def _describe_tokenizer(writer: Any, folder: Path, kind: str) -> None:
    """A vocabulary for `gpt2` with GPT-2's pattern, or for `gemma4`."""
    data = json.loads((folder / "tokenizer.json").read_text())
    about = json.loads((folder / "tokenizer_config.json").read_text())
    ids = {**data["model"]["vocab"], **{t["content"]: t["id"] for t in data["added_tokens"]}}
    tokens = sorted(ids, key=ids.__getitem__)
    special = {token["content"] for token in data["added_tokens"]}
    writer.add_tokenizer_model(kind)
    digits = "Digits" in json.dumps(data["pre_tokenizer"])
    writer.add_tokenizer_pre("smollm" if digits else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in data["model"]["merges"]])
    for key, add in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id)):
        add(ids[about[f"{key}_token"]])
    writer.add_pad_token_id(ids[about["pad_token"]])
    template = folder / "chat_template.jinja"
    writer.add_chat_template(template.read_text())


def _describe_image_part(writer: Any, config: Mapping[str, Any], soft_tokens: int) -> None:
    vision = AutoConfig.for_model(**config).vision_config
    writer.add_clip_has_vision_encoder(True)
    writer.add_vision_projection_dim(config["text_config"]["hidden_size"])
    writer.add_vision_max_pixels(soft_tokens * 48**2)
    if config["model_type"] == "gemma4_unified":
        writer.add_clip_vision_projector_type("gemma4uv")
        return
    writer.add_clip_vision_projector_type("gemma4v")
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_image_size(224)  # unused, but llama.cpp asks for it
    writer.add_vision_image_mean([0.0] * 3)
    writer.add_vision_image_std([1.0] * 3)
    writer.add_vision_use_gelu(True)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(1e-6)


def write_gguf(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    folder: Path,
    linears: str | Iterator[str] = "Q4_0",
    *,
    tokenizer: str = "gpt2",
    fused: bool = False,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Writes tensors by transformers' names; returns what the file stands for.

    Args:
        path: with `mmproj` in its name for an image part.
        tensors: by transformers' names.
        folder: has the small files that the converter reads.
        linears: blocks of the linear layers, or of one after the other.
        tokenizer: its kind; nothing for a file without one.
        fused: whether queries, keys and values lie in one matrix, gates apart from the experts'
            other half, and every matrix has a number more, as newer files have them.
        options: of gguf's writer, such as `split_max_tensors`.
    """
    config = json.loads((folder / "config.json").read_text())
    is_image = "mmproj" in path.name
    writer = gguf.GGUFWriter(path, "clip" if is_image else "gemma4", **options)
    writer.add_custom_alignment(64)
    stands_for = {}
    stored = {}
    for name, tensor in tensors.items():
        data, kind, stands_for[name] = _stored(name, tensor, linears)
        stored[gguf_name(name)] = _unified(name, data), kind
    if fused and not is_image:
        stored, factors = _fused(stored)
        for name in stands_for:
            factor = factors.get(re.sub(r"attn_[qkv]\.", "attn_qkv.", gguf_name(name)))
            if factor is not None:
                stands_for[name] = stands_for[name] * factor
    for key, (data, kind) in stored.items():
        writer.add_tensor(key, data, raw_dtype=kind)
    if is_image:
        small = json.loads((folder / "preprocessor_config.json").read_text())
        _describe_image_part(writer, config, small["max_soft_tokens"])
    else:
        _describe_text(writer, config)
        if tokenizer:
            _describe_tokenizer(writer, folder, tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for


def write_gguf_folder(
    source: Path, target: Path, linears: str | Iterator[str] = "Q4_0", **options: Any
) -> dict[str, torch.Tensor]:
    """The model in `source` as a text model and an `mmproj` beside it, and nothing else."""
    tensors = load_file(source / "model.safetensors")
    if "model.vision_embedder.patch_dense.weight" in tensors:
        # Published names of the 12B, which its modules do not have
        tensors = {
            name.replace("embed_vision.", "embed_vision.multimodal_embedder.").replace(
                "vision_embedder.", "embed_vision."
            ): tensor
            for name, tensor in tensors.items()
        }
    seen = re.compile("vision|audio")
    text = {name: tensor for name, tensor in tensors.items() if not seen.search(name)}
    stands_for = write_gguf(target / "tiny.gguf", text, source, linears, **options)
    image = {name: tensor for name, tensor in tensors.items() if seen.search(name)}
    return stands_for | write_gguf(target / "mmproj-tiny.gguf", image, source)
