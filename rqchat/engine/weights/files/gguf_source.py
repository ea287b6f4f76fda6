"""Weights out of GGUF files: the text model's, and the image part's `mmproj` beside it.

Gemma 4's files keep norms and the order of rows as transformers has them (llama.cpp's converter
shifts no norm and permutes no q or k); only names differ, and what reads pixels: a tower's patches
are stored as a convolution's, and the 12B's in the order colour, row, column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from rqchat.engine.model_files.gguf.gguf_files import GgufFiles
from rqchat.engine.model_files.gguf.gguf_header import GgufTensor
from rqchat.engine.model_files.gguf.gguf_names import PATCHES, check_names, model_name
from rqchat.engine.weights.files.gguf_blocks import PLAIN, pack_q4_0, unpack
from rqchat.engine.weights.files.safetensors_file import check_sums
from rqchat.engine.weights.grid import Packed, matrix_of, part_values, row_parts
from rqchat.engine.weights.transfer import ByteStream
from rqchat.errors import ModelError

__all__ = ["GgufSource"]

_FUSED_QKV = re.compile(r"(.+\.layers\.(\d+)\.self_attn\.)qkv_proj\.weight")
_FUSED_MLP = re.compile(r"(.+\.mlp\.)gate_up_proj\.weight")
_HALF_OF_EXPERTS = re.compile(r"(.+\.experts\.)(gate|up)_proj")
# NVFP4 files have one number more for a matrix, or for each expert's; and one for activations,
# which stay in 16 bits here
_SCALE, _INPUT_SCALE = ".scale", "input_scale"
_OWN_SCALES = ("ffn_gate_inp", "ffn_down_exps")


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor of the model: where it lies, and the factors that its rows get.

    Attributes:
        tensor: where.
        scale: a float32 number for each run of rows of the same length; None without.
    """

    tensor: GgufTensor
    scale: GgufTensor | None = None


class GgufSource:
    """The GGUF files of a model."""

    def __init__(self, files: GgufFiles, config: Mapping[str, Any], name: str) -> None:
        """Takes the headers of `files`.

        Args:
            files: the text model's, and those of what sees pictures.
            config: the model's config.json.
            name: what errors call the model.

        Raises:
            ModelError: files are missing or damaged.
        """
        text = files.texts[0]
        check_sums(text.parent, name)
        check_names(files.tensors.keys(), config, text.name, name)
        self._text, self._name, self._files = config["text_config"], name, files
        self._stored: dict[str, _Stored] = {}
        for key, tensor in files.tensors.items():
            part, _, leaf = key.rpartition(".")
            is_factor = leaf == "scale" and not part.endswith(_OWN_SCALES)
            if not is_factor and leaf != _INPUT_SCALE:
                whole = _Stored(tensor, self._factor(part, leaf))
                wanted = model_name(key, unified=files.is_unified)
                self._stored |= dict(self._pieces(wanted, whole))

    def _factor(self, part: str, leaf: str) -> GgufTensor | None:
        """What the rows of `part`'s weight are multiplied by."""
        known = leaf == "weight" and not part.endswith(_OWN_SCALES)
        found = self._files.tensors.get(part + _SCALE) if known else None
        if found is not None and found.kind != "F32":
            raise ModelError(
                f"{self._name} keeps {part}{_SCALE} as {found.kind}, not as F32; take another file"
                " of the same model"
            )
        return found

    def _pieces(self, name: str, whole: _Stored) -> Iterator[tuple[str, _Stored]]:
        """The tensors of the model that lie in one of the file."""
        tensor = whole.tensor
        if fused := _FUSED_QKV.fullmatch(name):
            begin = 0
            for part, rows in self._qkv_rows(int(fused[2]), tensor.shape[0]):
                yield f"{fused[1]}{part}_proj.weight", _cut(whole, begin, rows)
                begin += rows
        elif fused := _FUSED_MLP.fullmatch(name):
            half = tensor.shape[0] // 2
            yield fused[1] + "gate_proj.weight", _cut(whole, 0, half)
            yield fused[1] + "up_proj.weight", _cut(whole, half, half)
        elif half_of := _HALF_OF_EXPERTS.fullmatch(name):
            for expert in range(tensor.shape[0]):
                piece = f"{half_of[1]}{expert}.{half_of[2]}_proj.weight"
                yield piece, _expert(whole, expert)
        else:
            yield name, whole

    def _qkv_rows(self, layer: int, rows: int) -> list[tuple[str, int]]:
        """How many rows queries, keys and values have in a fused matrix of that many."""
        types = self._text.get("layer_types")
        is_global = types[layer] == "full_attention" if types else layer % 6 == 5
        width = self._files.tensors[f"blk.{layer}.attn_q_norm.weight"].shape[0]
        query = int(self._text["num_attention_heads"]) * width
        if is_global and self._text.get("attention_k_eq_v"):
            return [("q", query), ("k", rows - query)]
        key = (rows - query) // 2
        return [("q", query), ("k", key), ("v", key)]

    def names(self) -> list[str]:
        """The names of all tensors, in the order of the bytes."""
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the module has, also of a packed weight."""
        shape = self._stored[name].tensor.shape
        if name in PATCHES["positions"]:
            return shape[1], shape[0], shape[2]
        if name in PATCHES["weight"] and len(shape) > 2:
            return shape[0], shape[1] * shape[2] * shape[3]
        # Bounds of clipped linears, scalars in the model: GGUF has no tensors without dimensions.
        return () if name.endswith(("_min", "_max")) else shape

    def nbytes(self, name: str) -> int:
        """Bytes in the files."""
        return self._stored[name].tensor.nbytes

    def is_packed(self, name: str) -> bool:
        """Whether it is stored on the grid `INT4`, as Q4_0 blocks."""
        stored = self._stored[name]
        return stored.tensor.kind == "Q4_0" and stored.scale is None

    def dtype(self, name: str) -> torch.dtype | None:
        """What it is stored in; None where it has to be unpacked."""
        stored = self._stored[name]
        return PLAIN.get(stored.tensor.kind) if stored.scale is None else None

    def rows(self, name: str, part: range, stream: ByteStream) -> torch.Tensor:
        """Some rows [n, columns] in a floating type."""
        tensor = self._stored[name].tensor
        if name in PATCHES["positions"]:
            # [axis, place, width] to [place, axis, width]
            whole = unpack(self._read(name, range(matrix_of(tensor.shape)[0]), stream), tensor)
            values = whole.view(tensor.shape).transpose(0, 1).reshape(-1, tensor.shape[-1])
            return values[part.start : part.stop]
        values = unpack(self._read(name, part, stream), tensor).view(len(part), -1)
        if name in (*PATCHES["weight"], *PATCHES["pixels"]):
            # [width, colour, row, column], as a convolution has it, to [width, row, column, colour]
            side = round((values.numel() // len(values) // 3) ** 0.5)
            image = values.view(-1, 3, side, side)
            values = image.permute(0, 2, 3, 1).reshape(values.shape)
        return self._scaled(name, part, values, stream)

    def packed(self, name: str, stream: ByteStream, *, keep: bool = True) -> Packed:
        """The matrix on the grid `INT4`, always a copy: blocks order their bytes otherwise."""
        rows, columns = matrix_of(self.shape(name))
        pieces = (
            pack_q4_0(self._read(name, part, stream), (len(part), columns))
            for part in row_parts(rows, columns, part_values(stream.device))
        )
        return Packed.join(pieces, rows)

    def _scaled(
        self, name: str, part: range, values: torch.Tensor, stream: ByteStream
    ) -> torch.Tensor:
        stored = self._stored[name]
        if stored.scale is None:
            return values
        rows, _ = matrix_of(self.shape(name))
        raw = stream.read(stored.scale.path, stored.scale.begin, stored.scale.nbytes, keep=False)
        factors = raw.view(torch.float32).repeat_interleave(rows // (raw.numel() // 4))
        return values * factors[part.start : part.stop].unsqueeze(-1)

    def _read(self, name: str, part: range, stream: ByteStream) -> torch.Tensor:
        """Bytes of some rows; a row is a whole number of blocks. GGUF aligns tensors to 32."""
        tensor = self._stored[name].tensor
        rows, _ = matrix_of(self.shape(name))
        row_bytes = tensor.nbytes // rows
        begin = tensor.begin + part.start * row_bytes
        keep = len(part) == rows and tensor.kind in PLAIN
        return stream.read(tensor.path, begin, len(part) * row_bytes, keep=keep)


def _cut(whole: _Stored, begin: int, rows: int) -> _Stored:
    """Some rows of a matrix as one of their own."""
    tensor = whole.tensor
    row_bytes = tensor.nbytes // tensor.shape[0]
    piece = replace(
        tensor,
        begin=tensor.begin + begin * row_bytes,
        nbytes=rows * row_bytes,
        shape=(rows, *tensor.shape[1:]),
    )
    return replace(whole, tensor=piece)


def _expert(whole: _Stored, expert: int) -> _Stored:
    """One expert's matrix, and its own factor."""
    piece = _cut(whole, expert, 1)
    matrix = replace(piece.tensor, shape=whole.tensor.shape[1:])
    scale = whole.scale
    if scale is not None and scale.shape[0] > 1:
        scale = _cut(_Stored(scale), expert, 1).tensor
    return _Stored(matrix, scale)
