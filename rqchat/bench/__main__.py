"""`python -m rqchat.bench speed`: a table for people, then one line of JSON."""

from __future__ import annotations

import argparse

from rqchat.bench.speed import run_speed


def main() -> None:
    """Read the arguments and run the benchmark asked for."""
    parser = argparse.ArgumentParser(prog="python -m rqchat.bench", description=__doc__)
    parser.add_argument("benchmark", choices=["speed"])
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--runs", type=int, default=5, help="counted runs after one warm-up")
    parser.add_argument("--document-tokens", type=int, default=8192)
    arguments = parser.parse_args()
    run_speed(arguments.model, arguments.runs, arguments.document_tokens)


if __name__ == "__main__":
    main()
