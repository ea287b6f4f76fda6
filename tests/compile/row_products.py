"""Counts what products of one row do for a 4-bit code, in the code of a card that is not there.

`TRITON_INTERPRET=0 python -m tests.compile.row_products 90`: for each launch of a fused layer the
instructions of a thread in the loop for each code, and its barriers, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.compile.compiler import dumped, pretend, record
from tests.compile.limits import loops
from tests.compile.weights import launch


def main(card: int) -> None:
    found: list[dict[str, Any]] = []

    def note(kernel: str, _: str, compiled: Any, options: dict[str, Any]) -> None:
        loop = max(loops(dumped(compiled, "-sass")), key=len)
        words = options["BLOCK_N"] * options["BLOCK_W"] / (32 * options["num_warps"])
        found.append(
            {
                "kernel": kernel,
                "ordered": options["ORDERED"],
                "instructions_a_code": round(len(loop) / (8 * words), 2),
                "barriers": sum(what.startswith("BAR") for what in loop),
                "shared_bytes": compiled.metadata.shared,
            }
        )

    record(note, lambda digest: True)
    pretend(card)
    launch("gated", 1, 4)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]))
