"""Where weights come from: a checkpoint of safetensors files, dense or packed as `w4a16-ct`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from rqchat.engine.model_files.quantization import check_quantization
from rqchat.engine.weights.files.safetensors_file import StoredTensor, check_sums, read_headers
from rqchat.engine.weights.grid import INT4, Packed
from rqchat.engine.weights.transfer import ByteStream
from rqchat.errors import ModelError

__all__ = ["SafetensorsSource", "WeightSource"]

# Published 12B checkpoints carry older names (transformers 5.23: conversion_mapping.py)
_RENAMED = {
    "gemma4_unified": (
        (
            "embed_vision.embedding_projection",
            "embed_vision.multimodal_embedder.embedding_projection",
        ),
        ("vision_embedder.", "embed_vision."),
    )
}
_SUFFIXES = ("_packed", "_scale", "_shape")


class WeightSource(Protocol):
    """Tensors by the names that the model's modules give them."""

    def names(self) -> list[str]:
        """The names of all tensors, in the order in which they are best read."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the module has, also of a packed weight."""

    def nbytes(self, name: str) -> int:
        """Bytes in the files."""

    def is_packed(self, name: str) -> bool:
        """Whether `packed` gives it as it is stored."""

    def dtype(self, name: str) -> torch.dtype | None:
        """What it is stored in, and read without a copy; None where it has to be unpacked."""

    def rows(self, name: str, part: range, stream: ByteStream) -> torch.Tensor:
        """Some rows of the matrix that its last dimension makes of it, in a floating type."""

    def packed(self, name: str, stream: ByteStream, *, keep: bool = True) -> Packed:
        """The matrix on the grid `INT4`, to be kept as it is or to be copied once more."""


class SafetensorsSource:
    """The safetensors files of a folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], name: str) -> None:
        """Reads the headers.

        Args:
            folder: holds the files.
            config: the model's config.json.
            name: what errors call the model.

        Raises:
            ModelError: files are missing or damaged, or quantized in an unknown format.
        """
        check_quantization(config.get("quantization_config"), name)
        check_sums(folder, name)
        renamed = _RENAMED.get(str(config.get("model_type")), ())
        self._stored = {
            _rename(key, renamed): tensor for key, tensor in read_headers(folder, name).items()
        }
        packed = [key for key in self._stored if key.endswith(".weight_packed")]
        self._packed = {key.removesuffix("_packed") for key in packed}
        for weight in self._packed:
            _check_packed(self._stored, weight, name)

    def names(self) -> list[str]:
        """The names of all tensors, in the order of the bytes."""
        weight_of = {weight + suffix: weight for weight in self._packed for suffix in _SUFFIXES}
        # Where its last part lies: words fill the first half of a file, scales lie among the norms
        places = {weight_of.get(key, key): place for place, key in enumerate(self._stored)}
        return sorted(places, key=places.__getitem__)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the module has, also of a packed weight."""
        if not self.is_packed(name):
            return self._stored[name].shape
        rows, words = self._stored[name + "_packed"].shape
        return rows, words * INT4.fields

    def nbytes(self, name: str) -> int:
        """Bytes in the files."""
        if not self.is_packed(name):
            return self._stored[name].nbytes
        return self._stored[name + "_packed"].nbytes + self._stored[name + "_scale"].nbytes

    def is_packed(self, name: str) -> bool:
        """Whether it is stored on the grid `INT4`."""
        return name in self._packed

    def dtype(self, name: str) -> torch.dtype | None:
        """What it is stored in; None where it has to be unpacked."""
        return None if self.is_packed(name) else self._stored[name].dtype

    def rows(self, name: str, part: range, stream: ByteStream) -> torch.Tensor:
        """Some rows [n, columns] in a floating type."""
        if not self.is_packed(name):
            return self._stored[name].rows(part, stream)
        words, scale = (
            self._stored[name + suffix].rows(part, stream) for suffix in ("_packed", "_scale")
        )
        return Packed(INT4, words, scale).dequantize()

    def packed(self, name: str, stream: ByteStream, *, keep: bool = True) -> Packed:
        """The matrix on the grid `INT4`."""
        words = self._stored[name + "_packed"].read(stream, keep=keep)
        stored = self._stored[name + "_scale"]
        if stored.dtype != torch.float32:
            return Packed(INT4, words, stored.read(stream, keep=keep))
        # 16 bits are planned for; vLLM keeps the scales in the model's dtype, too
        return Packed(INT4, words, stored.read(stream, keep=False).bfloat16())


def _rename(key: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        key = key.replace(old, new)
    return key


def _check_packed(stored: Mapping[str, StoredTensor], weight: str, name: str) -> None:
    words, scale = stored[weight + "_packed"], stored.get(weight + "_scale")
    shape = (words.shape[0], words.shape[-1] * INT4.fields // INT4.group)
    if words.dtype != torch.int32 or scale is None or scale.shape != shape:
        raise ModelError(
            f"{name} is damaged: {weight} has no words of 4-bit codes with a scale per"
            f" {INT4.group}; download it again"
        )
    if scale.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ModelError(f"{name} keeps the scales of {weight} as {scale.dtype}; download it again")
