"""What a packed KV cache costs a model, as `kv_fidelity.py` measures it. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Fidelity", "FidelityRow"]

# Top-1 agreement and mean KL divergence in nats; published 4- and 8-bit weights lie between.
_AS_GOOD = 0.99, 0.01
_CLOSE = 0.96, 0.05
_WIDTHS = (2, 3, 4, 5, 6, 8, 16)


@dataclass(frozen=True, slots=True)
class FidelityRow:
    """One way to store the cache, compared with exact storage of the same tokens.

    Attributes:
        name: what it is.
        kv_bits: of the packed tokens.
        token_bytes: of a packed token in all global layers.
        mean, median, high: KL divergence in nats, `high` its 99 % quantile.
        top_1: share of tokens whose likeliest successor is the same.
        perplexity: of the text.
    """

    name: str
    kv_bits: int
    token_bytes: float
    mean: float
    median: float
    high: float
    top_1: float
    perplexity: float


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The result of `rqchat verify`.

    Attributes:
        model: its name.
        weights: their precision.
        calibration: digest of the one in use; empty for none.
        scored_tokens: how many were compared, all of them after the exact window.
        floor: the exact cache under another attention implementation: what rounding alone does.
        planned: the plan's KV setting.
    """

    model: str
    weights: str
    calibration: str
    scored_tokens: int
    floor: FidelityRow
    planned: FidelityRow

    @property
    def verdict(self) -> str:
        """One sentence of judgement and, where there is one, what would help."""
        row = self.planned
        share = f"{1 - row.top_1:.1%} of the likeliest next tokens"
        if row.top_1 >= _AS_GOOD[0] and row.mean <= _AS_GOOD[1]:
            return f"{row.kv_bits} bits are as good as exact here: they change {share}."
        wider = next((width for width in _WIDTHS if width > row.kv_bits), None)
        advice = f"; --kv-bits {wider} would be closer" if wider else ""
        if not self.calibration and row.kv_bits < _WIDTHS[-1]:
            advice += ", and so would a calibration (rqchat calibrate)"
        if row.top_1 >= _CLOSE[0] and row.mean <= _CLOSE[1]:
            return f"{row.kv_bits} bits are close to exact here: they change {share}{advice}."
        return f"{row.kv_bits} bits cost quality here: they change {share}{advice}."

    def as_json(self) -> dict[str, Any]:
        """The record that `--json` prints."""
        return asdict(self) | {"verdict": self.verdict}
