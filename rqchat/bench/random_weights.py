"""Random weights of a model's true shapes, made where they are needed: no file, no download.

Memory does not depend on what weights say, so 31 billion of them can be measured without their
checkpoint; a GPU makes them in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rqchat.engine.weights.grid import INT4, Packed, matrix_of
from rqchat.engine.weights.skeleton import build_skeleton
from rqchat.engine.weights.transfer import ByteStream

__all__ = ["MID_TEXT", "RandomSource", "with_token_ids"]

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


class RandomSource:
    """A `WeightSource` whose tensors are drawn when they are asked for, on the stream's device."""

    def __init__(self, config: Mapping[str, Any], *, packed: bool) -> None:
        """`packed` has the decoder's linears on Google's 4-bit grid, else all weights are bf16."""
        model = build_skeleton(config, torch.bfloat16, torch.device("cpu"))
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        # No file has it a second time.
        if model.config.tie_word_embeddings:
            del self._shapes["lm_head.weight"]
        self._packed = {
            f"{name}.weight"
            for name, module in model.named_modules()
            if packed
            and isinstance(module, nn.Linear)
            and ".language_model." in name
            and ".router." not in name
        }

    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the module has, also of a packed weight."""
        return self._shapes[name]

    def nbytes(self, name: str) -> int:
        """Bytes that it would have in a file."""
        shape = self._shapes[name]
        return INT4.nbytes(*shape) if self.is_packed(name) else 2 * torch.Size(shape).numel()

    def is_packed(self, name: str) -> bool:
        """Whether it is drawn on the grid `INT4`."""
        return name in self._packed

    def dtype(self, name: str) -> torch.dtype | None:
        """What it is drawn in; None where it is packed."""
        return None if self.is_packed(name) else torch.bfloat16

    def rows(self, name: str, part: range, stream: ByteStream) -> torch.Tensor:
        """Some rows [n, columns], small enough that 60 layers of them stay finite."""
        _, columns = matrix_of(self._shapes[name])
        if self.is_packed(name):
            return self._words(len(part), columns, stream).dequantize()
        values = torch.empty(len(part), columns, dtype=torch.bfloat16, device=stream.device)
        if len(self._shapes[name]) < 2:
            return values.fill_(columns**-0.5 if name.endswith("q_norm.weight") else 1.0)
        return values.normal_(std=columns**-0.5)

    def packed(self, name: str, stream: ByteStream, *, keep: bool = True) -> Packed:
        """The matrix on the grid `INT4`."""
        rows, columns = matrix_of(self._shapes[name])
        return self._words(rows, columns, stream)

    def _words(self, rows: int, columns: int, stream: ByteStream) -> Packed:
        words = torch.randint(
            -(2**31), 2**31, (rows, columns // INT4.fields), dtype=torch.int32, device=stream.device
        )
        scale = torch.full(
            (rows, columns // INT4.group),
            0.2 * columns**-0.5,
            dtype=torch.bfloat16,
            device=stream.device,
        )
        return Packed(INT4, words, scale)


def with_token_ids(config: Mapping[str, Any], tokenizer_folder: Path) -> dict[str, Any]:
    """`config` with the ids of special tokens that the tokenizer in that folder has."""
    own = json.loads((tokenizer_folder / "config.json").read_text(encoding="utf-8"))
    ids = {name: value for name, value in own["text_config"].items() if name.endswith("token_id")}
    merged = deepcopy(dict(config))
    merged |= {name: value for name, value in own.items() if name.endswith(("_id", "_index"))}
    merged["text_config"] = {**merged["text_config"], **ids}
    return merged
