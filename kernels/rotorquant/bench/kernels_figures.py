"""The figures that the kernels are to reach, each a ratio of two timings of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from rotorquant.bench.kernels_timing import Span

__all__ = ["Figure", "Timing", "figures"]

_LONG, _MIDDLE, _SHORT = 131_072, 32_768, 8_192
_OWN, _BF16, _SDPA = "aligned 4", "bf16 K+V", "bf16 K+V, SDPA"
_PUBLISHED, _BEST = "turbo, published 4", "turbo, best 4"


@dataclass(frozen=True, slots=True)
class Timing:
    """One line: an op over the tokens of one layer, and the bytes that it must move."""

    op: str
    way: str
    tokens: int
    nbytes: int
    gigabytes_per_s: float
    share_of_copy: float
    teraflops: float
    span: Span


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured, and what it should be at least; `value` is None where it was not timed."""

    name: str
    wanted: float
    value: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the value is enough; None where it was not timed."""
        return None if self.value is None else self.value >= self.wanted

    @property
    def text(self) -> str:
        """One line of a report."""
        said = {None: "not measured", True: "reached", False: "NOT reached"}[self.reached]
        value = "-" if self.value is None else f"{self.value:.2f}"
        return f"{self.name:<66}{value:>7}{self.wanted:>9.2f}  {said}"

    def record(self) -> dict[str, str | float | bool | None]:
        """The figure as a record for JSON."""
        return asdict(self) | {"reached": self.reached}


def figures(timings: list[Timing]) -> list[Figure]:
    """The figures that the kernels have to reach, with the values of those that were timed."""
    found = {(each.op, each.way, each.tokens): each for each in timings}

    def share(op: str, tokens: int) -> float | None:
        own = found.get((op, _OWN, tokens))
        return None if own is None else own.share_of_copy

    def faster(op: str, other: str, tokens: int) -> float | None:
        own, theirs = (found.get((op, way, tokens)) for way in (_OWN, other))
        return None if own is None or theirs is None else theirs.span.middle_ms / own.span.middle_ms

    # 5.3 and 1.28 are the ratios published for RotorQuant's kernels (see `bench/paths.py`).
    return [
        Figure("decode at 128K, aligned 4: share of copy", 0.8, share("decode", _LONG)),
        Figure("decode at 128K, aligned 4: x bf16 SDPA", 5.0, faster("decode", _SDPA, _LONG)),
        Figure("quantize at 32K, 4 bits: x TurboQuant as published", 5.3,
               faster("quantize", _PUBLISHED, _MIDDLE)),
        Figure("decode at 128K, 4 bits: x TurboQuant as published", 1.28,
               faster("decode", _PUBLISHED, _LONG)),
        Figure("decode at 128K, 4 bits: x best TurboQuant", 1.5, faster("decode", _BEST, _LONG)),
        Figure("decode from 8K on, any aligned: x bf16, the worst case", 1.0, _slowest(timings)),
        Figure("prefill at 32K, aligned 4: x bf16 kernel", 0.6,
               faster("prefill 512", _BF16, _MIDDLE)),
        Figure("quantize at 32K, aligned 4: share of copy", 0.7, share("quantize", _MIDDLE)),
    ]  # fmt: skip


def _slowest(timings: list[Timing]) -> float | None:
    """The least gain of an aligned width over the faster bf16 way, at 8K tokens or more."""
    decoded = [each for each in timings if each.op == "decode" and each.tokens >= _SHORT]

    def times(tokens: int, chosen: Callable[[str], bool]) -> list[float]:
        return [t.span.middle_ms for t in decoded if t.tokens == tokens and chosen(t.way)]

    gains = [
        min(times(tokens, (_BF16, _SDPA).__contains__), default=0.0) / slowest
        for tokens in {each.tokens for each in decoded}
        for slowest in times(tokens, lambda way: way.startswith("aligned"))
    ]
    return min((gain for gain in gains if gain > 0), default=None)
