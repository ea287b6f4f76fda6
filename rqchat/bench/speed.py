"""How long a user waits: start, first token, reading a document, decoding.

Everything is a process of its own, timed from outside where a person would wait, and read from
`ask --json` where only the program knows.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pydoc_data.topics import topics
from typing import Any

from rqchat import __version__

__all__ = ["Figure", "measure", "report", "run_speed", "wall_s"]

_QUESTION = "Who are you?"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity over all runs, in `unit`."""

    name: str
    unit: str
    median: float
    lowest: float
    highest: float


def run_speed(model: str, runs: int, document_tokens: int) -> None:
    """Measure and print; raises CalledProcessError when rqchat fails."""
    ask = ["ask", "--no-log", "--model", model, "--temperature", "0", "--max-tokens", "64"]
    document = _document(ask, document_tokens)
    once = [*ask, "--no-cache"]
    last: dict[str, Any] = {}

    def read_document() -> float:
        last.update(_answer(once, document))
        return _prefill_s(last)

    figures = [
        measure("rqchat --version", "s", runs, lambda: wall_s(["--version"])),
        measure("rqchat --help", "s", runs, lambda: wall_s(["--help"])),
        measure("first token of rqchat ask", "s", runs, lambda: _first_byte_s(ask)),
        measure("decode", "tokens/s", runs, lambda: _rate(_answer(ask, ""))),
        measure(f"reading about {document_tokens} tokens", "s", runs, read_document),
    ]
    figures.append(
        measure(
            "decode after that document", "tokens/s", runs, lambda: _rate(_answer(once, document))
        )
    )
    figures.append(
        # The run that does not count has put it on disk.
        measure("that document, read before", "s", runs, lambda: _prefill_s(_answer(ask, document)))
    )
    report(figures, document_tokens=last["tokens"]["input"], runs=runs, model=model)


def report(figures: Sequence[Figure], **more: object) -> None:
    """A line for each figure, then one line of JSON with `more` and what it was measured on."""
    for figure in figures:
        sys.stdout.write(
            f"{figure.name:32} {figure.median:9.3f} {figure.unit:9}"
            f" ({figure.lowest:.3f} to {figure.highest:.3f})\n"
        )
    record = {
        "figures": [asdict(figure) for figure in figures],
        **more,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "rqchat": __version__,
        **{name: version(name) for name in ("torch", "transformers")},
    }
    sys.stdout.write(json.dumps(record) + "\n")


def measure(name: str, unit: str, runs: int, once: Callable[[], float]) -> Figure:
    """What `once` returns over `runs` calls, after one that does not count."""
    once()
    values = [once() for _ in range(runs)]
    return Figure(name, unit, statistics.median(values), min(values), max(values))


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "rqchat", *arguments]


def wall_s(arguments: list[str]) -> float:
    """Seconds that `rqchat` takes with `arguments`, as a process."""
    begun_s = time.perf_counter()
    subprocess.run(_command(arguments), check=True, capture_output=True)
    return time.perf_counter() - begun_s


def _first_byte_s(ask: list[str]) -> float:
    begun_s = time.perf_counter()
    with subprocess.Popen(
        _command([*ask, _QUESTION]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,  # the first byte, not the first full buffer
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        waited_s = time.perf_counter() - begun_s
        process.stdout.read()
    return waited_s


def _answer(ask: list[str], document: str) -> dict[str, Any]:
    """The object that `ask --json` prints."""
    done = subprocess.run(
        _command([*ask, "--json", _QUESTION]),
        input=document,
        check=True,
        capture_output=True,
        text=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _rate(answer: dict[str, Any]) -> float:
    return float(answer["timing"]["decode_tokens_per_s"])


def _prefill_s(answer: dict[str, Any]) -> float:
    return float(answer["timing"]["prefill_s"])


def _document(ask: list[str], tokens: int) -> str:
    """Prose of the Python language reference that makes a prompt of about `tokens`."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    sample = text[:20_000]
    characters_per_token = len(sample) / _answer(ask, sample)["tokens"]["input"]
    return text[: int(tokens * characters_per_token)]
