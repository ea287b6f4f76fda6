"""The options of a cache: one frozen record, checked once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rotorquant.exceptions import ConfigError

__all__ = [
    "BLOCK_BITS",
    "CALIBRATED_MODES",
    "DEFERS",
    "KEY_CODES",
    "KV_BITS",
    "MODES",
    "SCALES",
    "SLIDING_BITS",
    "STATISTICS",
    "TABLES",
    "Bits",
    "RotorQuantConfig",
    "resolve_mode",
]

KV_BITS = (2, 3, 4, 5, 6, 8, 16)
MODES = ("aligned", "planar", "iso", "iso-full", "rotor", "hadamard", "haar")
CALIBRATED_MODES = ("aligned", "hadamard")
BLOCK_BITS = {"q8_0": 8, "q4_0": 4}  # modes without a rotation, and their one width
SLIDING_BITS = (8, 16)
DEFERS = ("none", "window", "prompt")
STATISTICS = ("none", "rows")
KEY_CODES = ("mse", "qjl")
SCALES = ("matched", "norm")
# One bit goes to the signs, and there are no codes of 1 or 7 bits.
QJL_BITS = (3, 4, 5, 6)
TABLES = ("lloyd-max", "legacy")


# Names that people know from the published methods, and what they stand for here.
_KNOWN_AS = re.compile(r"(planar|iso|rotor|aligned)([2-68])")


def resolve_mode(mode: str, bits: int | Bits | None) -> tuple[str, int | Bits]:
    """Mode and bits of a name like `planar3`; without bits anywhere they are 4.

    Raises:
        ConfigError: the name and `bits` give different widths.
    """
    known = _KNOWN_AS.fullmatch(mode)
    if known is None:
        return mode, 4 if bits is None else bits
    width = int(known[2])
    if bits not in (None, width):
        raise ConfigError(f"mode is {mode!r} and bits is {bits!r}; give one of them")
    return known[1], width


@dataclass(frozen=True, slots=True)
class Bits:
    """Separate code widths for keys, values and the latent, each out of `KV_BITS`.

    Attributes:
        key, value: of layers that store K and V.
        latent: of layers that store V alone, from which K follows.
    """

    key: int = 4
    value: int = 4
    latent: int = 4

    def __post_init__(self) -> None:
        for name in ("key", "value", "latent"):
            _check_choice(f"{name} bits", getattr(self, name), KV_BITS)


@dataclass(frozen=True, slots=True)
class RotorQuantConfig:
    """Options of a `RotorQuantCache`.

    Attributes:
        bits: code width of the packed tokens of global layers; 16 keeps them as they are. `Bits`
            gives keys, values and the latent widths of their own.
        mode: rotation before quantization (`rotation.py`), or `q8_0` or `q4_0` (`ggml_blocks.py`).
        sink_tokens: first tokens of a sequence that stay exact in global layers.
        recent_tokens: latest tokens that stay exact in global layers.
        sliding_bits: 16 keeps sliding windows in the model's dtype, 8 as int8 with one scale per
            head vector.
        max_tokens: longest sequence; storage is then allocated once. None grows in large steps.
        page_tokens: tokens that leave the exact window together and are packed at once.
        seed: of the rotation's angles.
        defer: what stays exact until it is packed: `window` the latest tokens; `prompt` also the
            whole prompt, until the first step of one token; `none` the chunk at hand alone, so that
            `recent_tokens` and `page_tokens` do not count.
        tied: False stores K beside V where V alone would do, as every other cache does.
        key_code: `qjl` spends one of the bits of keys on the signs of a projected residual.
        scale: `matched` makes a decoded vector as long as its original, `norm` keeps the norm.
        calibration: digest of the calibration in use; empty for none.
        statistics: `rows` fits `aligned` and `hadamard` to the rows that a layer packs first, where
            there is no calibration (`calibration/own_frame.py`); `none` does not.
        table: `lloyd-max`, or the `legacy` one that early 4-bit releases shipped.
    """

    bits: int | Bits = 4
    mode: str = "aligned"
    sink_tokens: int = 64
    recent_tokens: int = 512
    sliding_bits: int = 16
    max_tokens: int | None = None
    page_tokens: int = 64
    seed: int = 42
    defer: str = "window"
    tied: bool = True
    key_code: str = "mse"
    scale: str = "matched"
    table: str = "lloyd-max"
    calibration: str = ""
    statistics: str = "rows"

    def __post_init__(self) -> None:
        if not isinstance(self.bits, Bits):
            _check_choice("bits", self.bits, KV_BITS)
        _check_choice("defer", self.defer, DEFERS)
        _check_choice("mode", self.mode, (*MODES, *BLOCK_BITS))
        _check_choice("sliding_bits", self.sliding_bits, SLIDING_BITS)
        _check_choice("tied", self.tied, (True, False))
        _check_choice("key_code", self.key_code, KEY_CODES)
        _check_choice("scale", self.scale, SCALES)
        _check_choice("table", self.table, TABLES)
        _check_choice("statistics", self.statistics, STATISTICS)
        self._check_codes()
        for name, least in (("sink_tokens", 0), ("recent_tokens", 1), ("page_tokens", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} is {value!r}; it is a whole number from {least} up")
        limit = self.max_tokens
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ConfigError(f"max_tokens is {limit!r}; it is at least 1, or None to grow")

    def _check_codes(self) -> None:
        """Refuse widths that the key code, the block format or the table does not have."""
        bits = tuple(dict.fromkeys(self.stream_bits(tied=False)))
        if self.tied:  # layers that cannot be store K and V
            bits = tuple(dict.fromkeys(bits + self.stream_bits(tied=True)))
        given = ", ".join(map(str, bits))
        if self.key_code == "qjl" and (self.tied or bits[0] not in QJL_BITS):
            raise ConfigError(
                f"key_code is 'qjl' with {bits[0]} bits and tied={self.tied}; it needs tied=False "
                f"and {', '.join(map(str, QJL_BITS))} bits, one of which it takes for signs"
            )
        width = BLOCK_BITS.get(self.mode)
        if width is not None and set(bits) - {width, 16}:
            raise ConfigError(f"mode is {self.mode!r} with bits {given}; it has {width} bits only")
        if self.table == "legacy" and set(bits) != {4}:
            raise ConfigError(f"table is 'legacy' with bits {given}; it has 4 bits only")

    @property
    def learns(self) -> bool:
        """Whether layers fit their codecs to the rows that they pack."""
        as_made = (self.key_code, self.scale, self.table) == ("mse", "matched", "lloyd-max")
        own = self.statistics == "rows" and not self.calibration
        return own and as_made and self.mode in CALIBRATED_MODES

    def stream_bits(self, tied: bool) -> tuple[int, ...]:
        """Widths of what a global layer stores: of the latent if tied, else of K and of V."""
        bits = self.bits if isinstance(self.bits, Bits) else Bits(*[self.bits] * 3)
        return (bits.latent,) if tied else (bits.key, bits.value)


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    # Types are compared as well, because True == 1 and 4.0 == 4 would pass for a width.
    if value not in allowed or type(value) is not type(allowed[0]):
        choices = ", ".join(str(choice) for choice in allowed)
        raise ConfigError(f"{name} is {value!r}; allowed are {choices}")
