"""What is compared: ways to store the global layers, each a record of cache options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rotorquant.config import CALIBRATED_MODES, RotorQuantConfig
from rotorquant.fidelity.peers import Peer, peers

__all__ = ["Method", "methods"]

_CODED = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True, slots=True)
class Method:
    """A way to store the global layers, one row of the tables.

    Attributes:
        name: as printed.
        config: options of the cache.
        known: what a calibration on another text gives it: `nothing`, the `offset` of the channels,
            or `all`.
        peer: in the place of our own cache, one that stores K and V as others do.
    """

    name: str
    config: RotorQuantConfig
    known: str = "nothing"
    peer: Peer | None = None

    @property
    def bits(self) -> int:
        """Width of a code; 16 for none."""
        assert isinstance(self.config.bits, int)
        return self.config.bits


def methods(widths: Iterable[int]) -> tuple[Method, ...]:
    """bf16 and the block formats, then every method at every width that it has.

    `K+V` stores both, as published; the others store V alone where K follows from it.
    """
    found = [
        Method("bf16 K+V", RotorQuantConfig(16, tied=False)),
        Method("bf16", RotorQuantConfig(16)),
        Method("q8_0 K+V", RotorQuantConfig(8, "q8_0", tied=False)),
        Method("q4_0 K+V", RotorQuantConfig(4, "q4_0", tied=False)),
    ]
    for bits in sorted(set(widths) & set(_CODED)):
        # As the paper has it; `turbo-wht` below is what programs run in its place.
        turbo = RotorQuantConfig(bits, "haar", tied=False, scale="norm")
        found.append(Method("turbo K+V", turbo))
        if bits in (3, 4, 5, 6):
            qjl = RotorQuantConfig(bits, "haar", tied=False, scale="norm", key_code="qjl")
            found.append(Method("turbo-qjl K+V", qjl))
        wht = RotorQuantConfig(bits, "hadamard", tied=False, statistics="none")
        found.append(Method("turbo-wht K+V", wht))
        if bits == 4:
            legacy = RotorQuantConfig(4, "hadamard", tied=False, table="legacy")
            found.append(Method("turbo-old K+V", legacy))
        for mode in ("planar", "iso", "iso-full", "rotor", "hadamard", "aligned"):
            found.append(Method(mode, RotorQuantConfig(bits, mode)))
            if mode in CALIBRATED_MODES:
                plain = RotorQuantConfig(bits, mode, statistics="none")
                found.append(Method(f"{mode} plain", plain))
        found += [Method(p.name, RotorQuantConfig(bits), peer=p) for p in peers(bits)]
        found.append(Method("aligned+offset", RotorQuantConfig(bits, "aligned"), "offset"))
        found.append(Method("aligned+text", RotorQuantConfig(bits, "aligned"), "all"))
        found.append(Method("hadamard+text", RotorQuantConfig(bits, "hadamard"), "all"))
    return tuple(found)
