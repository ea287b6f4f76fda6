"""What turns vectors into rows, as the cache launches it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rotorquant.ops.encode import Dense
from rotorquant.ops.encode import kernel as encode
from rotorquant.ops.launches import HEAD_DIMS
from rotorquant.ops.mix import Mix
from rotorquant.ops.mix import kernel as mix
from rotorquant.ops.planes import PACKED_BITS
from tests.compile.limits import SHARED_BYTES
from tests.compile.ops import codebook

KERNELS = ((encode, "map_kernel"), (mix, "mix_kernel"))
_TOKENS = 256
_DIFFERENT = {
    *(("shaped", 512, 4, card) for card in SHARED_BYTES),
    *(("mixed", 512, bits, card) for bits, card in ((4, 90), (3, 86), (5, 86))),
    ("mapped", 512, 3, 86),
}


def cases(few: bool) -> Iterator[tuple[str, int, int, int]]:
    """(what, head size, bits, card): everything, or what differs most and what Gemma 4 has."""
    for card in SHARED_BYTES:
        for head_dim in HEAD_DIMS[::-1]:
            for what in ("mixed", "mapped", "shaped"):
                for bits in PACKED_BITS:
                    there = what != "mixed" or head_dim in (256, 512)
                    if there and (not few or (what, head_dim, bits, card) in _DIFFERENT):
                        yield what, head_dim, bits, card


def launch(what: str, head_dim: int, bits: int) -> None:
    """Call the wrappers as the cache does."""
    book = codebook(bits)
    vectors = torch.empty(1, _TOKENS, 4, head_dim, dtype=torch.bfloat16).transpose(1, 2)
    if what == "mixed":
        lines = torch.ones(16), torch.ones(16, 16), torch.ones(16)
        columns = head_dim // 16
        by = Mix(torch.ones(head_dim), torch.ones(columns, columns), *lines)
        mix.mix_packed(vectors, book, by, True, None)
        return
    matrix = torch.empty(4, head_dim, head_dim)
    if what == "mapped":
        encode.encode(vectors, book, Dense(matrix[:1]), True, None)
    else:
        encode.encode(vectors, book, Dense(matrix, matrix[:, :1], matrix), True, None)
