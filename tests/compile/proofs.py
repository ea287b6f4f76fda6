"""What compiled kernels took of each card, by the digest of the launch, kept in `proofs.txt`.

A line for each launch: kernel, digest, then the figures in the order of `Figures`. They hold for
the Triton that the first line names; under another one nothing is proven.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Set
from dataclasses import astuple
from pathlib import Path

import triton

from tests.compile.limits import Figures

__all__ = ["PATH", "SAMPLE", "disagreements", "launches_to_compile", "read_proofs", "write_proofs"]

PATH = Path(__file__).with_name("proofs.txt")
SAMPLE = 10
_HEAD = f"triton {triton.__version__}"


def read_proofs(path: Path = PATH) -> dict[str, Figures]:
    """The figures by digest; empty if there are none of this Triton."""
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    if lines[:1] != [_HEAD]:
        return {}
    rows = (line.split() for line in lines[1:])
    return {digest: Figures(*map(int, figures)) for _, digest, *figures in rows}


def write_proofs(
    kernels: Mapping[str, str], proofs: Mapping[str, Figures], path: Path = PATH
) -> None:
    """Replace the file; `kernels` names the kernel of each digest that is launched today."""
    lines = sorted(
        " ".join(map(str, (kernel, digest, *astuple(proofs[digest]))))
        for digest, kernel in kernels.items()
    )
    path.write_text("\n".join([_HEAD, *lines]) + "\n", encoding="ascii")


def launches_to_compile(digests: Set[str], proofs: Mapping[str, Figures], seed: int) -> set[str]:
    """Those that are not proven, and a random sample of those that are."""
    proven = sorted(digests & proofs.keys())
    return {
        *(digests - proofs.keys()),
        *random.Random(seed).sample(proven, min(SAMPLE, len(proven))),
    }


def disagreements(new: Mapping[str, Figures], proofs: Mapping[str, Figures]) -> list[str]:
    """Where compiled code does not take what the file says."""
    return [
        f"{digest} takes {figures}, and {PATH.name} says {proofs[digest]}"
        for digest, figures in new.items()
        if proofs.get(digest, figures) != figures
    ]
