"""The command `python -m rotorquant.bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rotorquant.bench import attention_fidelity, kernels, layer_memory, paths, tune
from rotorquant.exceptions import RotorQuantError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one bench; 0 when it came to its end, 1 when it could not.

    The table goes to stdout, JSON is the last line.
    """
    parser = argparse.ArgumentParser(prog="python -m rotorquant.bench", description=__doc__)
    benches = parser.add_subparsers(required=True, metavar="BENCH")
    attention_fidelity.add_arguments(
        benches.add_parser("fidelity", help=attention_fidelity.SUMMARY)
    )
    kernels.add_arguments(benches.add_parser("kernels", help=kernels.SUMMARY))
    layer_memory.add_arguments(benches.add_parser("memory", help=layer_memory.SUMMARY))
    paths.add_arguments(benches.add_parser("paths", help=paths.SUMMARY))
    tune.add_arguments(benches.add_parser("tune", help=tune.SUMMARY))
    chosen = parser.parse_args(arguments)
    try:
        for line in chosen.run(chosen):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except (RotorQuantError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
