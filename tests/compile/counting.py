"""Counts what the decode kernel does for a stored value, in the code of cards that are not there.

`TRITON_INTERPRET=0 python -m tests.compile.counting 86,90 tied:512:4,split:512:4` compiles, without
a padding mask, and prints for the loop over packed keys: instructions of a thread for each stored
value that it decodes, barriers for each key, registers, stack and shared memory.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from tests.compile.compiler import dumped, pretend, record
from tests.compile.limits import loops
from tests.compile.ops import launch


def line(compiled: Any, options: dict[str, Any]) -> str:
    """The figures; the loop over packed keys is the first."""
    usage, code = dumped(compiled, "-res-usage"), dumped(compiled, "-sass")
    loop, threads = loops(code)[0], 32 * options["num_warps"]
    values = options["KEYS"] * options["D"] * (2 if options["SPLIT"] else 1) / threads
    barriers = sum(what.startswith("BAR") for what in loop)
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    return (
        f"{options['KEYS']:4} {len(loop):12} {len(loop) / values:9.1f} "
        f"{barriers / options['KEYS']:12.2f} {found['REG']:>5} {found['STACK']:>5} "
        f"{compiled.metadata.shared:6}"
    )


def main(cards: list[int], cases: list[list[str]]) -> None:
    lines: list[str] = []

    def note(kernel: str, _: str, compiled: Any, options: dict[str, Any]) -> None:
        if kernel == "decode_kernel":
            lines.append(line(compiled, options))

    record(note, lambda digest: True)
    head = "case          card keys instructions per value barriers/key  regs stack shared\n"
    sys.stdout.write(head)
    for card in cards:
        pretend(card)
        for what, head_dim, bits in cases:
            launch(what, int(head_dim), int(bits), masked=False)
            sys.stdout.write(f"{what} {head_dim} x {bits:3} {card:4} {lines[-1]}\n")


if __name__ == "__main__":
    main(
        [int(card) for card in sys.argv[1].split(",")],
        [c.split(":") for c in sys.argv[2].split(",")],
    )
