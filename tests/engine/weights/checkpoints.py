"""Small checkpoints in every format, each made by the format's own library."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.helpers import TINY_CONFIG, small_e_model

__all__ = [
    "EVEN_CONFIG",
    "MIXTURE_CONFIG",
    "is_decoder_linear",
    "split_experts",
    "tensors_of",
    "write_shards",
    "write_w4a16",
]

EVEN_CONFIG: dict[str, Any] = copy.deepcopy(TINY_CONFIG)
"""A layer of each kind, with sizes that groups of 64 divide, as in every published one."""
_LAYERS = ["sliding_attention", "full_attention"]
EVEN_CONFIG["text_config"] |= {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "layer_types": _LAYERS,
}
E_CONFIG = small_e_model(
    EVEN_CONFIG,
    hidden_size_per_layer_input=64,
    num_hidden_layers=4,
    num_kv_shared_layers=2,
    layer_types=2 * _LAYERS,
)
MIXTURE_CONFIG: dict[str, Any] = copy.deepcopy(EVEN_CONFIG)
"""26B-A4B in small."""
MIXTURE_CONFIG["text_config"] |= {
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 64,
}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors files."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def is_decoder_linear(name: str, tensor: torch.Tensor) -> bool:
    """What Google's 4-bit checkpoints pack, by name and shape."""
    in_text = ".language_model." in name and "embed_tokens" not in name and ".router." not in name
    return in_text and tensor.ndim == 2


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    """Replaces the weights of `folder` by `tensors` in that many files with an index."""
    for path in folder.glob("model*.safetensors*"):
        path.unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]  # parts of a packed weight come to lie in different files
        save_file({name: tensors[name].contiguous() for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def split_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every expert as linear layers of its own, as quantizers take a mixture apart."""
    found = {}
    for name, tensor in tensors.items():
        layer, experts, leaf = name.partition(".experts.")
        if not experts:
            found[name] = tensor
            continue
        for index, matrix in enumerate(tensor):
            parts = {"down": matrix}
            if leaf == "gate_up_proj":
                parts = dict(zip(("gate", "up"), matrix.chunk(2), strict=True))
            for part, rows in parts.items():
                found[f"{layer}.experts.{index}.{part}_proj.weight"] = rows
    return found


def write_w4a16(source: Path, folder: Path) -> dict[str, torch.Tensor]:
    """`source` as compressed-tensors packs it, in three shards; returns what it stands for."""
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
    )

    shutil.copytree(source, folder)
    weights = QuantizationArgs(num_bits=4, symmetric=True, strategy="group", group_size=32)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, format="pack-quantized")
    stored: dict[str, torch.Tensor] = {}
    stands_for: dict[str, torch.Tensor] = {}
    for name, tensor in split_experts(tensors_of(source)).items():
        dense = tensor.to(torch.bfloat16)
        if not is_decoder_linear(name, tensor):
            stored[name] = stands_for[name] = dense
            continue
        groups = dense.unflatten(-1, (-1, 32))
        scale = (groups.float().abs().amax(-1) / 7.5).to(torch.bfloat16)
        state = {"weight": dense, "weight_scale": scale}
        packed = PackedQuantizationCompressor.compress(dict(state), scheme)
        stored |= {name.removesuffix("weight") + key: part for key, part in packed.items()}
        stands_for[name] = PackedQuantizationCompressor.decompress(dict(packed), scheme)["weight"]
    write_shards(folder, stored, 3)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = QuantizationConfig(
        config_groups={"group_0": scheme}, format="pack-quantized", ignore=["lm_head"]
    ).model_dump(mode="json", exclude_none=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return stands_for
