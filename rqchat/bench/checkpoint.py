"""A random checkpoint as the hub has Google's 4-bit ones, for the real loader to read and be timed.

Linears are packed (compressed-tensors, groups of 32), all other weights are bf16.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rqchat.bench.random_weights import RandomSource, with_token_ids
from rqchat.engine.weights.grid import matrix_of
from rqchat.engine.weights.transfer import ByteStream

__all__ = ["copy_small_files", "write_checkpoint"]

_SHARD_BYTES = 2 * 10**9
_GROUP = 32
_POCKET_FILES = ("*.json", "*.jinja")


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], tokenizer_folder: Path, device: torch.device
) -> int:
    """Random weights of `config` in `folder`, drawn on `device`; the bytes of its tensors.

    Tokenizer and special tokens are those of another model.
    """
    merged = copy_small_files(folder, config, tokenizer_folder)
    source = RandomSource(merged, packed=True)
    merged["quantization_config"] = _packing()
    (folder / "config.json").write_text(json.dumps(merged), encoding="utf-8")
    with ByteStream(device) as stream:
        _write_shards(folder, _tensors(source, stream))
    return sum(source.nbytes(name) for name in source.names())


def copy_small_files(
    folder: Path, config: Mapping[str, Any], tokenizer_folder: Path
) -> dict[str, Any]:
    """Puts tokenizer, template and config.json into `folder`; the configuration in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _POCKET_FILES:
        for file in tokenizer_folder.glob(pattern):
            shutil.copy(file, folder / file.name)
    merged = with_token_ids(config, tokenizer_folder)
    (folder / "config.json").write_text(json.dumps(merged), encoding="utf-8")
    return merged


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


def _tensors(source: RandomSource, stream: ByteStream) -> Iterator[tuple[str, torch.Tensor]]:
    for name in source.names():
        if not source.is_packed(name):
            shape = source.shape(name)
            rows, _ = matrix_of(shape)
            yield name, source.rows(name, range(rows), stream).view(shape).cpu()
            continue
        packed = source.packed(name, stream)
        yield f"{name}_packed", packed.words.cpu()
        yield f"{name}_scale", packed.scale.cpu()
        yield f"{name}_shape", torch.tensor(source.shape(name))


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
