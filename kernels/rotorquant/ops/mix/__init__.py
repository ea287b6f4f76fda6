"""Maps made of signs, as Hadamard rotations are; `ops/encode` takes them like any other map."""

from __future__ import annotations

from rotorquant.ops.mix.reference import Mix, mix

__all__ = ["Mix", "mix"]
