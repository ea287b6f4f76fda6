"""What a cache was asked to do: one frozen record, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from rotorquant.errors import ConfigError

__all__ = ["KV_BITS", "MODES", "SLIDING_BITS", "RotorQuantConfig"]

KV_BITS = (2, 3, 4, 5, 6, 8, 16)
MODES = ("planar",)
SLIDING_BITS = (8, 16)


@dataclass(frozen=True, slots=True)
class RotorQuantConfig:
    """Options of a `RotorQuantCache`.

    Attributes:
        bits: code width of the packed tokens of global layers; 16 keeps them as they are.
        mode: rotation before quantization; `planar` is one Givens rotor per pair of dimensions.
        sink_tokens: first tokens of a sequence that stay exact in global layers.
        recent_tokens: latest tokens that stay exact in global layers.
        sliding_bits: 16 keeps sliding windows in the model's dtype, 8 as int8 with one scale per
            head vector.
        max_tokens: longest sequence; storage is then allocated once. None grows in large steps.
        page_tokens: tokens that leave the exact window together and are packed at once.
        seed: of the rotation's angles.
    """

    bits: int = 4
    mode: str = "planar"
    sink_tokens: int = 64
    recent_tokens: int = 512
    sliding_bits: int = 16
    max_tokens: int | None = None
    page_tokens: int = 64
    seed: int = 42

    def __post_init__(self) -> None:
        _check_choice("bits", self.bits, KV_BITS)
        _check_choice("mode", self.mode, MODES)
        _check_choice("sliding_bits", self.sliding_bits, SLIDING_BITS)
        for name, least in (("sink_tokens", 0), ("recent_tokens", 1), ("page_tokens", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(f"{name} is {value!r}; it is a whole number from {least} up")
        limit = self.max_tokens
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ConfigError(f"max_tokens is {limit!r}; it is at least 1, or None to grow")


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed or type(value) is not type(allowed[0]):
        choices = ", ".join(str(choice) for choice in allowed)
        raise ConfigError(f"{name} is {value!r}; allowed are {choices}")
