"""Counts what the decode kernel does for a stored value, in the code of cards that are not there.

`python -m tests.compile.counting 86,90 tied:512:4,split:512:4` compiles as `ops` does, without a
padding mask, and prints for the loop over packed keys: instructions of a thread for each stored
value that it decodes, barriers for each key, registers, stack and shared memory.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from triton.runtime import driver

from rotorquant.ops import dispatch
from rotorquant.ops.decode import kernel as decode
from tests.compile.limits import loops
from tests.compile.ops import Absent, Compiler, dumped, launch


class Noting(Compiler):
    """Keeps what the kernel was compiled for, too."""

    def __getitem__(self, grid: Any) -> Any:
        def compile_it(*arguments: Any, **options: Any) -> None:
            made = self.inner.warmup(*arguments, grid=grid, **options)
            self.compiled.append((line(made, options), made))

        return compile_it


def line(made: Any, options: dict[str, Any]) -> str:
    """The figures; the loop over packed keys is the first."""
    usage, code = dumped(made, "-res-usage"), dumped(made, "-sass")
    loop, threads = loops(code)[0], 32 * options["num_warps"]
    values = options["KEYS"] * options["D"] * (2 if options["SPLIT"] else 1) / threads
    barriers = sum(what.startswith("BAR") for what in loop)
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    return (
        f"{options['KEYS']:4} {len(loop):12} {len(loop) / values:9.1f} "
        f"{barriers / options['KEYS']:12.2f} {found['REG']:>5} {found['STACK']:>5} "
        f"{made.metadata.shared:6}"
    )


def main(cards: list[int], cases: list[list[str]]) -> None:
    compiled: list[tuple[str, Any]] = []
    setattr(decode, "decode_kernel", Noting(decode.decode_kernel, compiled))  # noqa: B010
    setattr(decode, "merge_kernel", Compiler(decode.merge_kernel, []))  # noqa: B010
    setattr(dispatch, "processors_of", lambda tensor: 100)  # noqa: B010
    head = "case          card keys instructions per value barriers/key  regs stack shared\n"
    sys.stdout.write(head)
    for card in cards:
        driver.set_active(Absent(card))
        setattr(dispatch, "capability_of", lambda tensor, card=card: divmod(card, 10))  # noqa: B010
        for what, head_dim, bits in cases:
            launch(what, int(head_dim), int(bits), masked=False)
            sys.stdout.write(f"{what} {head_dim} x {bits:3} {card:4} {compiled[-1][0]}\n")


if __name__ == "__main__":
    main(
        [int(card) for card in sys.argv[1].split(",")],
        [c.split(":") for c in sys.argv[2].split(",")],
    )
