"""What reads prompts, as the cache launches it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress, product

import torch

from rotorquant.ops.attend import Part, Rows
from rotorquant.ops.chunk import Rules
from rotorquant.ops.chunk import kernel as chunk
from rotorquant.ops.chunk.launch import HEAD_DIMS
from rotorquant.ops.dequantize import decode_table
from rotorquant.ops.planes import PACKED_BITS, planes_of
from rotorquant.ops.rebuild import Twist
from rotorquant.ops.rebuild import kernel as rebuild
from tests.compile.limits import SHARED_BYTES

KERNELS = ((chunk, "chunk_kernel"), (rebuild, "rebuild_kernel"))
_TOKENS = 256
_DIFFERENT = {
    *(("own keys+before+pictures+mask", 512, card) for card in SHARED_BYTES),
    ("own keys+before", 512, 86),
    ("own keys", 256, 90),
    ("history+before", 256, 90),
}


def cases(few: bool) -> Iterator[tuple[str, int, int, int]]:
    """(what, head size, bits, card): everything, or what differs most and what Gemma 4 has."""
    for card in SHARED_BYTES:
        for head_dim in HEAD_DIMS:
            for what in _variants():
                if not few or (what, head_dim, card) in _DIFFERENT:
                    yield what, head_dim, 16, card
            for bits in PACKED_BITS:
                if not few or (card, head_dim, bits) in ((86, 512, 3), (86, 256, 8)):
                    yield "rebuild", head_dim, bits, card


def _variants() -> Iterator[str]:
    """A chunk's own keys or history, with what makes another kernel of it."""
    for what, *marks in (("own keys", "before", "pictures", "mask"), ("history", "before", "mask")):
        for chosen in product((False, True), repeat=len(marks)):
            yield "+".join((what, *compress(marks, chosen)))


def launch(what: str, head_dim: int, bits: int) -> None:
    """Call the wrappers as the cache does."""
    if what == "rebuild":
        _rebuild(head_dim, bits)
        return
    base, *marks = what.split("+")
    query = torch.empty(1, 16, 32, head_dim, dtype=torch.bfloat16)
    key = torch.empty(1, 2, _TOKENS, head_dim, dtype=torch.bfloat16)
    part = Part(*(torch.empty(1, 2, 8, 32, columns) for columns in (1, 1, head_dim)))
    mask = torch.ones(1, _TOKENS, dtype=torch.bool) if "mask" in marks else None
    reach = torch.empty(1, 32, dtype=torch.int32) if "pictures" in marks else None
    own = base == "own keys"
    rules = Rules(224, 100, reach, mask) if own else Rules(_TOKENS, key_mask=mask)
    chunk.attend(query, key, key, 1.0, rules, part if "before" in marks else None, own)


def _rebuild(head_dim: int, bits: int) -> None:
    planes, pairs = planes_of(bits), head_dim // 8
    extra = torch.empty(1, 4, _TOKENS, planes.extra_bytes(head_dim), dtype=torch.uint8)
    rows = Rows(
        torch.empty(1, 4, _TOKENS, planes.primary_bytes(head_dim), dtype=torch.uint8),
        extra if planes.extra else None,
        torch.empty(1, 4, _TOKENS, dtype=torch.float16),
    )
    places, angles = torch.arange(pairs), torch.empty(1, _TOKENS, pairs, dtype=torch.bfloat16)
    twist = Twist(
        places,
        places + pairs,
        torch.ones(head_dim, dtype=torch.bool),
        torch.empty(4, 4, pairs),
        torch.empty(4, 2, pairs),
        angles,
        angles,
    )
    rebuild.rebuild(rows, decode_table(torch.zeros(2**bits), bits), twist, torch.bfloat16)
