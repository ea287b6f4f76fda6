"""TurboQuant (arXiv 2504.19874), as the baseline of comparisons, under the same contract."""

from __future__ import annotations

from typing import Any

from rotorquant.cache import RotorQuantCache
from rotorquant.config import Bits, RotorQuantConfig
from rotorquant.exceptions import ConfigError

__all__ = ["IsoQuantCache", "PlanarQuantCache", "TurboQuantCache"]


class PlanarQuantCache(RotorQuantCache):
    """`RotorQuantCache` in mode `planar`; options as there."""

    def __init__(self, model: Any, bits: int | Bits | None = None, **options: Any) -> None:
        super().__init__(model, bits, "planar", **options)


class IsoQuantCache(RotorQuantCache):
    """`RotorQuantCache` in mode `iso`, or `iso-full` with `full`; options as there."""

    def __init__(
        self, model: Any, bits: int | Bits | None = None, *, full: bool = False, **options: Any
    ) -> None:
        super().__init__(model, bits, "iso-full" if full else "iso", **options)


class TurboQuantCache(RotorQuantCache):
    """Random rotation, Lloyd-Max codes and a norm per head vector; K and V stored in every layer.

    With 4 bits a vector of 512 values takes 258 bytes, as 2 bytes of norm come to the codes; keys
    with `keys="qjl"` take 260.

    Args:
        model, bits: as for `RotorQuantCache`.
        rotation: `haar`, the dense one of the paper, or `hadamard`, which everybody runs.
        keys: `mse`, or `qjl` for the paper's second variant: a code of one bit less and the signs
            of a projected residual.
        table: `lloyd-max`, or the `legacy` 4-bit table of the first llama.cpp releases.
        scale: `norm` as in the paper, or `matched` as in those releases.
        options: other fields of `RotorQuantConfig`: the exact tokens, sliding layers, maximum.

    Raises:
        ConfigError: an option is out of range.
        UnsupportedModelError: the model cannot be served.
    """

    def __init__(
        self,
        model: Any,
        bits: int | Bits = 4,
        *,
        rotation: str = "haar",
        keys: str = "mse",
        table: str = "lloyd-max",
        scale: str = "norm",
        **options: Any,
    ) -> None:
        if rotation not in ("haar", "hadamard"):
            raise ConfigError(f"rotation is {rotation!r}; allowed are haar, hadamard")
        options.setdefault("statistics", "none")  # as published
        config = RotorQuantConfig(
            bits,
            rotation,
            tied=False,
            key_code=keys,
            table=table,
            scale=scale,
            **options,
        )
        self._build(model, config)
