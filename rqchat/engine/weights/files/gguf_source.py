"""Weights out of GGUF files: the text model's, and the image tower's `mmproj` beside it.

Gemma 4's files keep norms and the order of rows as transformers has them (llama.cpp's converter
shifts no norm and permutes no q or k); only names differ, and the patches' weight, which is stored
as a convolution's.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from rqchat.engine.model_files.gguf_header import GgufTensor, read_gguf
from rqchat.engine.model_files.gguf_precision import gguf_files
from rqchat.engine.weights.files.gguf_blocks import PLAIN, pack_q4_0, unpack
from rqchat.engine.weights.files.safetensors_file import check_sums
from rqchat.engine.weights.grid import Packed, matrix_of, part_values, row_parts
from rqchat.engine.weights.transfer import ByteStream
from rqchat.errors import ModelError

__all__ = ["GgufSource"]

_TEXT, _LAYER = "model.language_model.", "model.language_model.layers."
_TOP = {
    "token_embd.weight": _TEXT + "embed_tokens.weight",
    "per_layer_token_embd.weight": _TEXT + "embed_tokens_per_layer.weight",
    "per_layer_model_proj.weight": _TEXT + "per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": _TEXT + "per_layer_projection_norm.weight",
    "output_norm.weight": _TEXT + "norm.weight",
    "output.weight": "lm_head.weight",
    "mm.input_projection.weight": "model.embed_vision.embedding_projection.weight",
    "v.patch_embd.weight": "model.vision_tower.patch_embedder.input_proj.weight",
    "v.position_embd.weight": "model.vision_tower.patch_embedder.position_embedding_table",
    "v.std_bias": "model.vision_tower.std_bias",
    "v.std_scale": "model.vision_tower.std_scale",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "inp_gate": "per_layer_input_gate", "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "ffn_gate_inp": "router.proj",
}  # fmt: skip
_WHOLE_IN_LAYER = {
    "layer_output_scale.weight": "layer_scalar",
    "ffn_gate_inp.scale": "router.scale", "ffn_down_exps.scale": "router.per_expert_scale",
    "ffn_gate_up_exps.weight": "experts.gate_up_proj", "ffn_down_exps.weight": "experts.down_proj",
}  # fmt: skip
_IN_TOWER = {
    "ln1": "input_layernorm", "attn_post_norm": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm", "ffn_post_norm": "post_feedforward_layernorm",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip
_CLIPPED = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_PATCHES = _TOP["v.patch_embd.weight"]


class GgufSource:
    """The GGUF files of a folder."""

    def __init__(self, folder: Path, name: str, *, needs_tower: bool) -> None:
        """Reads the headers.

        Args:
            folder: holds one text model, and an `mmproj` file for the image tower.
            name: what errors call the model.
            needs_tower: whether its configuration has an image tower.

        Raises:
            ModelError: files are missing or damaged.
        """
        text, towers = gguf_files(folder, name)
        if needs_tower and not towers:
            raise ModelError(
                f"{name} has no image tower: download the mmproj file of the same model, too, into"
                f" the folder of {text.name}"
            )
        check_sums(folder, name)
        self._stored: dict[str, GgufTensor] = {}
        for path in (text, *towers[:1]):
            for key, tensor in read_gguf(path, name).items():
                self._stored[_model_name(key)] = tensor

    def names(self) -> list[str]:
        """The names of all tensors, in the order of the bytes."""
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the module has, also of a packed weight."""
        shape = self._stored[name].shape
        if name == _PATCHES:
            return shape[0], shape[1] * shape[2] * shape[3]
        # Bounds of clipped linears, scalars in the model: GGUF has no tensors without dimensions.
        return () if name.endswith(("_min", "_max")) else shape

    def nbytes(self, name: str) -> int:
        """Bytes in the files."""
        return self._stored[name].nbytes

    def is_packed(self, name: str) -> bool:
        """Whether it is stored on the grid `INT4`, as Q4_0 blocks."""
        return self._stored[name].kind == "Q4_0"

    def dtype(self, name: str) -> torch.dtype | None:
        """What it is stored in; None where it has to be unpacked."""
        return PLAIN.get(self._stored[name].kind)

    def rows(self, name: str, part: range, stream: ByteStream) -> torch.Tensor:
        """Some rows [n, columns] in a floating type."""
        tensor = self._stored[name]
        _, columns = matrix_of(self.shape(name))
        values = unpack(self._read(name, part, stream), tensor.kind, (len(part), columns))
        if name == _PATCHES:
            # [width, colour, row, column] as a convolution has it, to [width, row, column, colour]
            values = values.view(-1, *tensor.shape[1:]).permute(0, 2, 3, 1).reshape(values.shape)
        return values

    def packed(self, name: str, stream: ByteStream, *, keep: bool = True) -> Packed:
        """The matrix on the grid `INT4`, always a copy: blocks order their bytes otherwise."""
        rows, columns = matrix_of(self.shape(name))
        pieces = (
            pack_q4_0(self._read(name, part, stream), (len(part), columns))
            for part in row_parts(rows, columns, part_values(stream.device))
        )
        return Packed.join(pieces, rows)

    def _read(self, name: str, part: range, stream: ByteStream) -> torch.Tensor:
        """Bytes of some rows; a row is a whole number of blocks. GGUF aligns tensors to 32."""
        tensor = self._stored[name]
        rows, _ = matrix_of(self.shape(name))
        row_bytes = tensor.nbytes // rows
        begin = tensor.begin + part.start * row_bytes
        keep = len(part) == rows and tensor.kind in PLAIN
        return stream.read(tensor.path, begin, len(part) * row_bytes, keep=keep)


def _model_name(key: str) -> str:
    """What transformers calls the tensor; its own name where it has none there."""
    if key in _TOP:
        return _TOP[key]
    found = re.fullmatch(r"(v\.)?blk\.(\d+)\.(.+)", key)
    if not found:
        return key
    tower, layer, rest = found.groups()
    part, _, leaf = rest.rpartition(".")
    if tower:
        base = f"model.vision_tower.encoder.layers.{layer}."
        if part in _CLIPPED:
            return f"{base}{_CLIPPED[part]}.{'linear.' if leaf == 'weight' else ''}{leaf}"
        return f"{base}{_IN_TOWER.get(part, part)}.{leaf}"
    if rest in _WHOLE_IN_LAYER:
        return f"{_LAYER}{layer}.{_WHOLE_IN_LAYER[rest]}"
    return f"{_LAYER}{layer}.{_IN_LAYER.get(part, part)}.{leaf}"
