"""Compiles kernels for cards that are not there, as the ops would launch them.

Needs a process of its own, without Triton's interpreter: `python -m tests.compile.ops few|all`,
and the cards after it, if not all. `all` takes half an hour of one core, on every core that is
there. A line of JSON on stdout for every kernel, case and card; the table and what does not fit on
stderr, and exit code 1 if anything does not.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from rotorquant.codec.codebook import lloyd_max
from rotorquant.ops import dispatch
from rotorquant.ops.attend import Rope, Rows
from rotorquant.ops.attend import kernel as attend
from rotorquant.ops.attend.launch import HEAD_DIMS, pairs_limit
from rotorquant.ops.code_table import make_codebook
from rotorquant.ops.decode import Exact, Reading, Stored
from rotorquant.ops.decode import kernel as decode
from rotorquant.ops.dequantize import decode_table
from rotorquant.ops.dequantize import kernel as dequantize
from rotorquant.ops.planes import PACKED_BITS, planes_of
from rotorquant.ops.quantize import kernel as quantize
from tests.compile import chunk, encode, small
from tests.compile.limits import loop_spills, report

CARDS = (86, 90, 80, 120, 100, 89)
KERNELS = (
    (quantize, "quantize_kernel"),
    (dequantize, "dequantize_kernel"),
    (attend, "attend_kernel"),
    (attend, "join_kernel"),
    (decode, "decode_kernel"),
    (decode, "merge_kernel"),
    *chunk.KERNELS,
    *encode.KERNELS,
    *small.KERNELS,
)
PARTS = chunk, encode, small
TOKENS = 256


@dataclass(frozen=True, slots=True)
class Result:
    """One compiled kernel.

    Bytes of shared memory, registers and stack bytes of a thread, how often a loop uses that stack,
    columns of tensor memory.
    """

    kernel: str
    case: str
    card: int
    shared_bytes: int
    registers: int
    stack_bytes: int
    loop_spills: int
    float64: int
    tensor_columns: int
    triton: str = triton.__version__


class Absent:
    """Stands for the driver of a card that is not there."""

    def __init__(self, card: int) -> None:
        self.card = card

    def get_current_device(self) -> int:
        return self.card

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.card, 32)


class Compiler:
    """Stands for a kernel and compiles where it would launch."""

    def __init__(self, inner: Any, compiled: list[tuple[str, Any]]) -> None:
        self.inner, self.compiled = inner, compiled

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def compile_it(*arguments: Any, **options: Any) -> None:
            made = self.inner.warmup(*arguments, grid=grid, **options)
            self.compiled.append((self.inner.__name__, made))

        return compile_it


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
        book = make_codebook(lloyd_max(bits), torch.device("cpu"))
        vectors = torch.zeros(1, TOKENS, 4, head_dim, dtype=torch.bfloat16).transpose(1, 2)
        packed = quantize.quantize(vectors, book, (half, half), True, None)
        dequantize.dequantize(*packed, book.centroids, bits, (half, half))
        return
    tied = what in ("part", "tied", "moved", "drafts")
    steps = 4 if what == "drafts" else 1
    queries = 8 * steps
    pairs = pairs_limit(head_dim) if tied else 0
    places = torch.arange(pairs)
    positions = torch.zeros(1, TOKENS, dtype=torch.int32)
    rope = Rope(
        torch.zeros(1, 4, queries, 4 * pairs),
        places,
        places + pairs,
        positions,
        torch.ones(pairs),
        torch.bfloat16,
        None,
    )
    moved = rope._replace(bias=torch.zeros(1, 4, queries, 2 * pairs)) if what == "moved" else rope
    query = torch.zeros(1, 4, queries, head_dim)
    mask = torch.ones(1, TOKENS, dtype=torch.bool) if masked else None
    rows, table = rows_of(head_dim, bits, what == "ring")
    if what == "part":
        length = torch.tensor([TOKENS])
        attend.attend_packed(query, rows, None, table, rope, mask, None, length)
        return
    plain = rows if what == "ring" else rows_of(head_dim, 16, False)[0]
    exact = Exact(plain, None if tied else plain)
    counts = torch.zeros(3, dtype=torch.int32)
    if what == "ring":
        decode.decode(Reading(query), exact, exact, counts, 1, TOKENS, mask, None, None)
        return
    stored = Stored(rows, None if tied else rows, table, table)
    near, far = (Reading(query, each if tied else None) for each in (rope, moved))
    decode.decode(near, exact, exact, counts, steps, None, mask, far, stored)


def rows_of(head_dim: int, bits: int, ring: bool) -> tuple[Rows, torch.Tensor | None]:
    """Rows of a layer, and their table."""

    def zeros(*columns: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        return torch.zeros(1, 4, TOKENS, *columns, dtype=dtype)

    if bits == 16:
        return Rows(zeros(head_dim, dtype=torch.bfloat16), None, None), None
    scale = zeros(dtype=torch.float16)
    if ring:
        return Rows(zeros(head_dim, dtype=torch.int8), None, scale), None
    planes = planes_of(bits)
    extra = zeros(planes.extra_bytes(head_dim)) if planes.extra else None
    table = decode_table(torch.tensor(lloyd_max(bits), dtype=torch.float32), bits)
    return Rows(zeros(planes.primary_bytes(head_dim)), extra, scale), table


def dumped(made: Any, what: str) -> str:
    """What cuobjdump says of a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        command = [str(tool), what, str(cubin)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def measure(name: str, case: str, card: int, made: Any) -> Result:
    """What the cubin says."""
    usage = dumped(made, "-res-usage")
    found = {field: int(count) for field, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    float64 = len(re.findall(r"\.f64\b", made.asm["ptx"]))
    stack = found["STACK"] + found["LOCAL"]
    columns = getattr(made.metadata, "tmem_size", 0) or 0
    # Reading the machine code takes a hundred times as long.
    spills = loop_spills(dumped(made, "-sass")) if stack else 0
    shared = made.metadata.shared
    return Result(name, case, card, shared, found["REG"], stack, spills, float64, columns)


def compile_cases(few: bool, cards: Container[int] = CARDS) -> Iterator[Result]:
    """Compile and measure one case after the other."""
    compiled: list[tuple[str, Any]] = []
    for module, name in KERNELS:
        setattr(module, name, Compiler(getattr(module, name), compiled))
    setattr(dispatch, "processors_of", lambda tensor: 100)  # noqa: B010
    parts = ((part.cases, part.launch) for part in PARTS)
    every = ((start, *case) for listed, start in ((cases, launch), *parts) for case in listed(few))
    for start, what, head_dim, bits, card in every:
        if card not in cards:
            continue
        driver.set_active(Absent(card))
        setattr(dispatch, "capability_of", lambda tensor, card=card: divmod(card, 10))  # noqa: B010
        compiled.clear()
        start(what, head_dim, bits)
        for name, made in compiled:
            base, *marks = what.split("+")
            yield measure(
                name, ", ".join((f"{base} {head_dim}", f"{bits} bits", *marks)), card, made
            )


def compile_card(card: int) -> list[Result]:
    """Every case of a card, for a process of its own."""
    return list(compile_cases(False, [card]))


def main(what: str, cards: list[int]) -> int:
    """Returns the exit code."""
    if what == "few":
        return report(map(asdict, compile_cases(True, cards)))
    # What Triton keeps of a compiled kernel goes with the process: a GB a card.
    with get_context("spawn").Pool(maxtasksperchild=1) as pool:
        return report(map(asdict, chain.from_iterable(pool.imap(compile_card, cards))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], [int(card) for card in sys.argv[2:]] or list(CARDS)))
