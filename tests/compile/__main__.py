"""Compiles kernels ahead of time for cards that are not there, and says whether they fit.

`python -m tests.compile changed` compiles the launches that `proofs.txt` does not hold, and ten at
random of those that it holds, which must take what it says; where it holds nothing of this Triton,
it is `few`. `few` compiles what differs most, `all` everything (an hour and a half of CPU, on
every core that is there). `--write` brings `proofs.txt` up to date. JSON on stdout; on stderr the
table, what does not fit, and exit code 1 if anything does not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Set
from dataclasses import asdict
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import triton

from tests.compile.compiler import Launch, all_cases, launches_of
from tests.compile.limits import CARDS, Figures, faults, table
from tests.compile.on_all_cores import compile_launches
from tests.compile.proofs import (
    PATH,
    disagreements,
    launches_to_compile,
    read_proofs,
    write_proofs,
)


def main() -> int:
    """Returns the exit code."""
    options = _options()
    proofs, mode = read_proofs(), options.mode
    if mode == "changed" and not proofs:
        mode = "all" if options.write else "few"
    cases = [case for case in all_cases(mode == "few") if case.card in options.cards]
    launches = list(launches_of(cases, ()))
    wanted = {launch.digest for launch in launches}
    if mode == "changed":
        wanted = launches_to_compile(wanted, proofs, options.seed)
    new = compile_launches(launches, wanted)
    known = proofs | new
    results = [_result(launch, known[launch.digest]) for launch in launches]
    found = faults(results) + disagreements(new, proofs)
    said = _summary(new.keys(), proofs.keys(), {one.digest for one in launches}, options.seed)
    sys.stderr.write("\n".join([table(results), *found, said]) + "\n")
    json.dump({"results": results, "summary": said}, sys.stdout)
    if options.write and not found:
        write_proofs({launch.digest: launch.kernel for launch in launches}, known)
    return 1 if found else 0


def _summary(new: Set[str], proofs: Set[str], launched: Set[str], seed: int) -> str:
    """One line: how many were compiled, and what the others rest on."""
    said = f"{len(new)} of {len(launched)} kernels compiled for {len(CARDS)} kinds of card"
    if not proofs:
        return f"{said}; {PATH.name} holds nothing of Triton {triton.__version__}"
    changed, stale = len(new - proofs), len(proofs - launched)
    said += f", sample {seed}, the others as in {PATH.name}"
    if changed or stale:
        said += f"; {changed} new, {stale} gone: `python -m tests.compile changed --write`"
    return said


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.compile", description=__doc__)
    parser.add_argument("mode", choices=("changed", "few", "all"))
    parser.add_argument("cards", type=int, nargs="*", default=CARDS, help="such as 86")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the sample")
    parser.add_argument("--write", action="store_true", help=f"bring {PATH.name} up to date")
    options = parser.parse_args()
    if options.write and (options.mode == "few" or set(options.cards) != set(CARDS)):
        parser.error("--write takes every case of every card: changed or all, and no card")
    return options


def _result(launch: Launch, figures: Figures) -> dict[str, Any]:
    names = {"kernel": launch.kernel, "case": str(launch.case), "card": launch.case.card}
    return names | asdict(figures) | {"triton": triton.__version__}


if __name__ == "__main__":
    sys.exit(main())
