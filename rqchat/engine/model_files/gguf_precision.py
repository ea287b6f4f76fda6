"""With how many bits a GGUF file keeps a model's weights, from its header. No torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rqchat.engine.model_files.gguf_header import read_gguf
from rqchat.errors import ModelError

__all__ = ["GgufPrecision", "gguf_files", "gguf_precision"]

# The decoder's linear layers, which a plan quantizes; routers stay as they are
_LINEAR = re.compile(r"blk\.\d+\.(?!ffn_gate_inp\b)\w+\.weight|per_layer_model_proj\.weight")
_BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8, "Q6_K": 8, "Q4_0": 4}
"""Bits of the narrowest format of rqchat's that holds such blocks."""
_FORMATS = {8: ("int8", "int4", "int2"), 4: ("int4", "int2")}
_LEAST_SHARE = 0.1  # of the weights: files of 4 bits keep single small matrices in 16


@dataclass(frozen=True, slots=True)
class GgufPrecision:
    """What the decoder's linear layers are kept in.

    Attributes:
        bits: 32, 16, 8 or 4: the most that a tenth of the weights have at least.
        higher: share of the weights that have more than that.
    """

    bits: int
    higher: float

    @property
    def formats(self) -> tuple[str, ...] | None:
        """What they can be loaded as without bits that the file does not have; None for all."""
        return _FORMATS.get(self.bits)


def gguf_files(folder: Path, name: str) -> tuple[Path, list[Path]]:
    """The file of the text model in `folder`, and those of its image tower.

    Raises:
        ModelError: there is none, or more than one.
    """
    towers = sorted(folder.glob("*mmproj*.gguf"))
    texts = sorted(set(folder.glob("*.gguf")) - set(towers))
    if len(texts) != 1:
        found = ", ".join(path.name for path in texts) or "none"
        raise ModelError(f"{name} must hold one GGUF file of a text model; it holds {found}")
    return texts[0], towers


def gguf_precision(folder: Path, name: str) -> GgufPrecision:
    """The precision of the weights in `folder`.

    Raises:
        ModelError: its GGUF file is missing or damaged.
    """
    text, _ = gguf_files(folder, name)
    values: Counter[int] = Counter()
    for key, tensor in read_gguf(text, name).items():
        if len(tensor.shape) > 1 and _LINEAR.fullmatch(key):
            values[_BITS[tensor.kind]] += math.prod(tensor.shape)
    total, sum_so_far = values.total(), 0
    for bits in sorted(values, reverse=True):
        sum_so_far += values[bits]
        if sum_so_far >= _LEAST_SHARE * total:
            return GgufPrecision(bits, (sum_so_far - values[bits]) / total)
    raise ModelError(f"{name} is damaged: {text.name} holds no decoder layers; download it again")
