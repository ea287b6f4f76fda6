"""What reads and writes the cache in decode steps, as the cache launches it.

Kernels are compiled and never run, so no tensor needs values.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import torch

from rotorquant.codec.codebook import lloyd_max
from rotorquant.ops.attend import Rope, Rows
from rotorquant.ops.attend import kernel as attend
from rotorquant.ops.attend.launch import HEAD_DIMS, pairs_limit
from rotorquant.ops.code_table import Codebook, make_codebook
from rotorquant.ops.decode import Exact, RowQueries, Stored
from rotorquant.ops.decode import kernel as decode
from rotorquant.ops.dequantize import decode_table
from rotorquant.ops.dequantize import kernel as dequantize
from rotorquant.ops.planes import PACKED_BITS, planes_of
from rotorquant.ops.quantize import kernel as quantize
from tests.compile.limits import CARDS

KERNELS = (
    (quantize, "quantize_kernel"),
    (dequantize, "dequantize_kernel"),
    (attend, "attend_kernel"),
    (attend, "join_kernel"),
    (decode, "decode_kernel"),
    (decode, "merge_kernel"),
)
TOKENS = 256


@cache
def codebook(bits: int) -> Codebook:
    """The codebook of a width."""
    return make_codebook(lloyd_max(bits), torch.device("cpu"))


@cache
def _table(bits: int) -> torch.Tensor:
    return decode_table(torch.tensor(lloyd_max(bits), dtype=torch.float32), bits)


def cases(few: bool) -> Iterator[tuple[str, int, int, int]]:
    """(what, head size, bits, card): everything, or what differs most and what Gemma 4 has."""
    widths = {"ring": (8, 16), "pack": PACKED_BITS}
    whats = ("tied", "moved", "split", "drafts", "ring", "pack", "part")
    # What Gemma 4 has, and the tightest card, come first
    for card, head_dim, what in product(CARDS, HEAD_DIMS[::-1], whats):
        for bits in widths.get(what, (*PACKED_BITS, 16)):
            if not few or _differs(what, head_dim, bits, card):
                yield what, head_dim, bits, card


def _differs(what: str, head_dim: int, bits: int, card: int) -> bool:
    chosen = {("pack", 3), ("part", 8), ("split", 3), ("moved", 3), ("drafts", 4)}
    if (what, head_dim, bits) == ("tied", 512, 4):
        return True
    return card == 86 and (
        (what == "ring" and head_dim == 256) or (head_dim == 512 and (what, bits) in chosen)
    )


def launch(what: str, head_dim: int, bits: int, masked: bool = True) -> None:
    """Call the wrappers as the cache does; it has a mask where a sequence is padded."""
    half = torch.ones(head_dim // 2)
    if what == "pack":
        book = codebook(bits)
        vectors = torch.empty(1, TOKENS, 4, head_dim, dtype=torch.bfloat16).transpose(1, 2)
        packed = quantize.quantize(vectors, book, (half, half), True, None)
        dequantize.dequantize(*packed, book.centroids, bits, (half, half))
        return
    tied = what in ("part", "tied", "moved", "drafts")
    steps = 4 if what == "drafts" else 1
    queries = 8 * steps
    pairs = pairs_limit(head_dim) if tied else 0
    places = torch.arange(pairs)
    positions = torch.empty(1, TOKENS, dtype=torch.int32)
    rope = Rope(
        torch.empty(1, 4, queries, 4 * pairs),
        places,
        places + pairs,
        positions,
        torch.ones(pairs),
        torch.bfloat16,
        None,
    )
    moved = rope._replace(bias=torch.empty(1, 4, queries, 2 * pairs)) if what == "moved" else rope
    query = torch.empty(1, 4, queries, head_dim)
    mask = torch.ones(1, TOKENS, dtype=torch.bool) if masked else None
    rows, table = rows_of(head_dim, bits, what == "ring")
    if what == "part":
        attend.attend_packed(query, rows, None, table, rope, mask, None)
        return
    plain = rows if what == "ring" else rows_of(head_dim, 16, False)[0]
    exact = Exact(plain, None if tied else plain)
    counts = torch.zeros(3, dtype=torch.int32)
    if what == "ring":
        given = RowQueries(query), exact, exact, counts, 1, TOKENS, mask, None, None
        decode.decode(*given, torch.bfloat16)
        return
    stored = Stored(rows, None if tied else rows, table, table)
    near, far = (RowQueries(query, each if tied else None) for each in (rope, moved))
    decode.decode(near, exact, exact, counts, steps, None, mask, far, stored)


def rows_of(head_dim: int, bits: int, ring: bool) -> tuple[Rows, torch.Tensor | None]:
    """Rows of a layer, and their table."""

    def field(*columns: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        return torch.empty(1, 4, TOKENS, *columns, dtype=dtype)

    if bits == 16:
        return Rows(field(head_dim, dtype=torch.bfloat16), None, None), None
    scale = field(dtype=torch.float16)
    if ring:
        return Rows(field(head_dim, dtype=torch.int8), None, scale), None
    planes = planes_of(bits)
    extra = field(planes.extra_bytes(head_dim)) if planes.extra else None
    table = _table(bits)
    return Rows(field(planes.primary_bytes(head_dim)), extra, scale), table
