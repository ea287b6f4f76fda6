"""Random checkpoints of true shapes, written as the hub has them, for the real loader to read.

Memory does not depend on what weights say, so 31B can be measured without its download.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

__all__ = ["MID_TEXT", "write_checkpoint"]

# 100 million parameters with the 31B's structure, for machines without a GPU
MID_TEXT: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 1,
    "head_dim": 128,
    "global_head_dim": 256,
    "sliding_window": 512,
    "max_position_embeddings": 65_536,
    "hidden_size_per_layer_input": 0,
}
_SHARD_BYTES = 2 * 10**9
_GROUP = 32
_POCKET_FILES = ("*.json", "*.jinja")


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], tokenizer_folder: Path, *, packed: bool
) -> Path:
    """Random weights of `config` in `folder`, with the tokenizer of another model.

    `packed` writes the decoder's linears as Google's 4-bit checkpoints have them
    (compressed-tensors, groups of 32), else all weights are bf16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _POCKET_FILES:
        for file in tokenizer_folder.glob(pattern):
            shutil.copy(file, folder / file.name)
    own = json.loads((tokenizer_folder / "config.json").read_text(encoding="utf-8"))
    merged = _with_token_ids(deepcopy(dict(config)), own)
    if packed:
        merged["quantization_config"] = _packing()
    (folder / "config.json").write_text(json.dumps(merged), encoding="utf-8")
    _write_shards(folder, _tensors({k: v for k, v in merged.items() if k[:5] != "quant"}, packed))
    return folder


def _with_token_ids(config: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of special tokens have to be those of the tokenizer."""
    config |= {name: value for name, value in own.items() if name.endswith(("_id", "_index"))}
    ids = {name: value for name, value in own["text_config"].items() if name.endswith("token_id")}
    config["text_config"] = {**config["text_config"], **ids}
    return config


def _packing() -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
    group = {"targets": ["Linear"], "weights": {**weights, "group_size": _GROUP}}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {**group, "format": "pack-quantized"}},
        "ignore": ["lm_head", "re:.*vision.*", "re:.*audio.*", "re:.*router.*"],
    }


def _tensors(config: dict[str, Any], packed: bool) -> Iterator[tuple[str, torch.Tensor]]:
    with torch.device("meta"):
        model = Gemma4ForConditionalGeneration(Gemma4Config(**config))
    linears = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "language_model.layers" in name
    }
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if packed and name in linears:
            yield from _packed(name.removesuffix(".weight"), *tensor.shape)
        else:
            yield name, _random(name, tensor.shape)


def _random(name: str, shape: torch.Size) -> torch.Tensor:
    """Small enough that 60 layers of them stay finite."""
    if len(shape) < 2:
        value = shape[-1] ** -0.5 if name.endswith("q_norm.weight") else 1.0
        return torch.full(shape, value, dtype=torch.bfloat16)
    return torch.randn(shape, dtype=torch.bfloat16).mul_(shape[-1] ** -0.5)


def _packed(name: str, rows: int, columns: int) -> Iterator[tuple[str, torch.Tensor]]:
    codes = torch.randint(-(2**31), 2**31, (rows, columns // 8), dtype=torch.int32)
    scale = torch.full((rows, columns // _GROUP), 0.2 * columns**-0.5, dtype=torch.bfloat16)
    yield f"{name}.weight_packed", codes
    yield f"{name}.weight_scale", scale
    yield f"{name}.weight_shape", torch.tensor([rows, columns])


def _write_shards(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
    where: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    count = size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > _SHARD_BYTES:
            count, size = _write_shard(folder, shard, where, count), 0
        shard[name] = tensor
        size += tensor.nbytes
    _write_shard(folder, shard, where, count)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_shard(
    folder: Path, shard: dict[str, torch.Tensor], where: dict[str, str], count: int
) -> int:
    file = f"model-{count:05d}.safetensors"
    save_file(shard, folder / file, metadata={"format": "pt"})
    where.update(dict.fromkeys(shard, file))
    shard.clear()
    return count + 1
