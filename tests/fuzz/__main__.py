"""`python -m tests.fuzz --cases 20000 --seed 1 --seconds 3600`: what `runner.py` finds, as a table.

`--surface pictures --case 17` tries one case again; `models` is split into its parts, such as
`models.configs`. Exits with 1 where something was found.
"""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.fuzz_models import SURFACES as MODEL_SURFACES
from tests.fuzz.runner import Tally, run, surfaces, try_case


def main() -> int:
    """The exit code: 1 where something was found."""
    known = {name: surface for name, surface in surfaces().items() if name != "models"}
    known |= {f"models.{surface.__name__}": surface for surface in MODEL_SURFACES}
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="after which no case begins")
    parser.add_argument("--surface", choices=known, action="append", help="instead of all")
    parser.add_argument("--case", type=int, help="this one alone, of one --surface")
    asked = parser.parse_args()
    chosen = {name: known[name] for name in asked.surface or known}
    if asked.case is None:
        tallies = run(chosen, cases=asked.cases, seed=asked.seed, seconds=asked.seconds)
    else:
        tallies = {name: Tally() for name in chosen}
        for name, surface in chosen.items():
            try_case(name, surface, asked.seed, asked.case, tallies[name])
    lines = [f"{'surface':<20}{'cases':>8}{'refused':>9}{'worst CPU s':>13}{'findings':>10}"]
    for name, tally in tallies.items():
        counts = f"{tally.cases:>8}{tally.refused:>9}{tally.worst_cpu_s:>13.1f}"
        lines.append(f"{name:<20}{counts}{len(tally.findings):>10}")
    found = [finding for tally in tallies.values() for finding in tally.findings]
    for each in found:
        lines.append(
            f"\n{each.kind}: --surface {each.surface} --seed {asked.seed} --case {each.case}"
        )
        lines.append(each.detail)
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
