"""With how many bits a GGUF file keeps a model's weights, from its header. No torch."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from rqchat.engine.model_files.gguf.gguf_files import GgufFiles
from rqchat.errors import ModelError

__all__ = ["GgufPrecision", "gguf_precision"]

# The decoder's linear layers, which a plan quantizes; routers stay as they are
_LINEAR = re.compile(r"blk\.\d+\.(?!ffn_gate_inp\b)\w+\.weight|per_layer_model_proj\.weight")
_BITS = {
    "F64": 32, "F32": 32, "F16": 16, "BF16": 16,
    **dict.fromkeys(("Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q5_1"), 8),
}  # fmt: skip
"""Bits of the narrowest format of rqchat's that loses next to nothing of such blocks, if not 4."""
_FORMATS = {8: ("int8", "int4", "int3", "int2"), 4: ("int4", "int3", "int2")}
_EXACT = ("F32", "F16", "BF16", "Q4_0")
_LEAST_SHARE = 0.1  # of the weights: files of 4 bits keep single small matrices in 16


@dataclass(frozen=True, slots=True)
class GgufPrecision:
    """What the decoder's linear layers are kept in.

    Attributes:
        bits: 32, 16, 8 or 4: the most that a tenth of the weights have at least.
        higher: share of the weights that have more than that.
        converted: the types of blocks that no format holds exactly, the most frequent first.
    """

    bits: int
    higher: float
    converted: tuple[str, ...] = ()

    @property
    def formats(self) -> tuple[str, ...] | None:
        """What they can be loaded as without bits that the file does not have; None for all."""
        return _FORMATS.get(self.bits)


def gguf_precision(files: GgufFiles, name: str) -> GgufPrecision:
    """The precision of the weights in `files`.

    Raises:
        ModelError: they hold no decoder layers.
    """
    values: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    for key, tensor in files.tensors.items():
        if len(tensor.shape) > 1 and _LINEAR.fullmatch(key):
            values[_BITS.get(tensor.kind, 4)] += math.prod(tensor.shape)
            kinds[tensor.kind] += math.prod(tensor.shape)
    converted = tuple(kind for kind, _ in kinds.most_common() if kind not in _EXACT)
    total, sum_so_far = values.total(), 0
    for bits in sorted(values, reverse=True):
        sum_so_far += values[bits]
        if sum_so_far >= _LEAST_SHARE * total:
            return GgufPrecision(bits, (sum_so_far - values[bits]) / total, converted)
    raise ModelError(
        f"{name} is damaged: {files.texts[0].name} holds no decoder layers; download it again"
    )
