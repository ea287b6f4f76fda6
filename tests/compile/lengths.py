"""Says how often each kernel is compiled for a layer whose lengths change, as they do in a chat.

Nothing is compiled: launches are told apart by their digests. JSON on stdout.
Needs a process without Triton's interpreter: `python -m tests.compile.lengths`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict

import torch

from rotorquant.codec.codebook import lloyd_max
from rotorquant.ops.attend import Part, Rows
from rotorquant.ops.attend import kernel as attend
from rotorquant.ops.chunk import Rules, reach_of
from rotorquant.ops.chunk import kernel as chunk
from rotorquant.ops.code_table import Codebook, make_codebook
from rotorquant.ops.decode import Exact, RowQueries, Stored
from rotorquant.ops.decode import kernel as decode
from rotorquant.ops.dequantize import decode_table
from rotorquant.ops.dequantize import kernel as dequantize
from rotorquant.ops.encode import Dense
from rotorquant.ops.encode import kernel as encode
from rotorquant.ops.quantize import kernel as quantize
from rotorquant.ops.rebuild import kernel as rebuild
from tests.compile.compiler import pretend, record
from tests.compile.ops import rows_of

CAPACITY, HEAD_DIM, HEADS, GROUP = 1024, 64, 2, 4
# New tokens, and those before them.
LENGTHS = ((2, 47), (16, 64), (33, 129), (48, 336), (40, 200), (16, 33), (64, 63))


def main() -> int:
    made: dict[str, set[str]] = defaultdict(set)
    record(lambda name, digest, *_: made[name].add(digest), lambda digest: False)
    pretend(86)
    book = make_codebook(lloyd_max(3), torch.device("cpu"))
    exact = torch.zeros(1, HEADS, CAPACITY, HEAD_DIM, dtype=torch.bfloat16)
    planes, _ = rows_of(HEAD_DIM, 3, False)
    room = Rows(
        *(
            torch.zeros(1, HEADS, CAPACITY, *f.shape[3:], dtype=f.dtype)
            for f in planes
            if f is not None
        )
    )
    for new, past in LENGTHS:
        pack(book, exact, room, new, past)
        read(book, exact, room, new, past)
    sys.stdout.write(json.dumps({name: len(kinds) for name, kinds in made.items()}))
    return 0


def cut(rows: Rows, low: int, high: int) -> Rows:
    return Rows(*(None if f is None else f[:, :, low:high] for f in rows))  # type: ignore[arg-type]


def pack(book: Codebook, exact: torch.Tensor, room: Rows, new: int, past: int) -> None:
    """Tokens from the tail to the pages, which fill up by multiples of 64."""
    vectors, target = exact[:, :, :new], cut(room, past // 64 * 64, past // 64 * 64 + new)
    assert target.scale is not None
    quantize.quantize(vectors, book, None, True, target)
    encode.encode(vectors, book, Dense(torch.zeros(1, HEAD_DIM, HEAD_DIM)), True, target)
    dequantize.dequantize(*target[:2], target.scale, book.centroids, 3)


def read(book: Codebook, exact: torch.Tensor, room: Rows, new: int, past: int) -> None:
    """A prompt's chunk and a decode step, over as many tokens."""
    keys, table = past + new, decode_table(book.centroids, 3)
    plain = exact[:, :, :keys]
    query = torch.zeros(1, HEADS * GROUP, new, HEAD_DIM, dtype=torch.bfloat16)
    part = Part(*(torch.zeros(1, HEADS, GROUP, new, size) for size in (1, 1, HEAD_DIM)))
    reach = reach_of(torch.full((1, keys), -1), past)
    chunk.attend(query, plain, plain, 1.0, Rules(past, 100, reach), part, True)
    rebuild.rebuild(cut(room, 0, past), table, None, torch.bfloat16)
    grouped = torch.zeros(1, HEADS, GROUP, HEAD_DIM)
    attend.attend_packed(grouped, cut(room, 0, past), None, table, None, None, None)
    whole = Exact(Rows(exact, None, None), Rows(exact, None, None))
    counts = torch.zeros(3, dtype=torch.int64)
    stored = Stored(room, room, table, table)
    step = RowQueries(grouped)
    decode.decode(step, whole, whole, counts, 1, None, None, step, stored)


if __name__ == "__main__":
    sys.exit(main())
