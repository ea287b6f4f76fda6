"""`python -m rqchat.bench NAME`: a table for people, and mostly one line of JSON."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

from rqchat.bench.screen import run_screen
from rqchat.bench.speed import run_speed
from rqchat.bench.store import run_store
from rqchat.engine.settings import let_segments_grow

# These need torch, the others do not.
_MODULES = {
    "decode": "decode",
    "weights": "weights",
    "loss": "loss",
    "memory": "plan_memory",
    "roofline": "cards.roofline",
    "schema": "schema",
}
_NAMES = ("speed", "store", "screen", *_MODULES)


def main() -> None:
    """Read the arguments and run the benchmark asked for."""
    parser = argparse.ArgumentParser(prog="python -m rqchat.bench", description=__doc__)
    parser.add_argument("benchmark", choices=_NAMES)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--runs", type=int, default=5, help="counted runs after one warm-up")
    parser.add_argument("--document-tokens", type=int, default=8192)
    parser.add_argument("--sessions", type=int, default=10_000, help="in the store")
    parser.add_argument("--contexts", type=int, nargs="*", default=[], help="for memory, roofline")
    parser.add_argument("--vram", nargs="*", default=[], help="cards for roofline")
    parser.add_argument("--bandwidth", type=float, help="GB/s for roofline")
    parser.add_argument("--tokens", type=int, help="for loss")
    parser.add_argument("--folder", type=Path, help="for memory's random checkpoints")
    parser.add_argument("--report", type=Path, help="what memory appends its table to")
    parser.add_argument("--budget-s", type=float, help="for memory: end in so many seconds")
    arguments = parser.parse_args()
    let_segments_grow()
    if arguments.benchmark in _MODULES:
        module = _MODULES[arguments.benchmark]
        runpy.run_module(f"rqchat.bench.{module}", run_name="__main__")
    elif arguments.benchmark == "store":
        run_store(arguments.sessions, arguments.runs)
    elif arguments.benchmark == "screen":
        run_screen(arguments.model, arguments.runs)
    else:
        run_speed(arguments.model, arguments.runs, arguments.document_tokens)


if __name__ == "__main__":
    main()
