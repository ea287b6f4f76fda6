"""What the user asked for: frozen records, checked once, never written back."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rqchat.engine.remote.address import ServerAddress, is_address, parse_address
from rqchat.errors import UsageError

__all__ = [
    "ALLOCATOR_VARIABLES",
    "DEFAULT_IMAGE_TOKENS",
    "EDITING_KEYS",
    "HEAD_BITS",
    "IMAGE_TOKEN_BUDGETS",
    "KV_BITS",
    "PICTURES",
    "PREFERENCES",
    "THEMES",
    "WEIGHTS",
    "ChatSettings",
    "SamplingSettings",
    "Settings",
    "compiled_kernels_folder",
    "environment_values",
    "let_segments_grow",
    "order_gpus_by_bus",
    "parse_size_bytes",
    "settings_file",
    "visible_gpus",
]

EDITING_KEYS = ("emacs", "vi")
THEMES = ("auto", "dark", "light")
PICTURES = ("auto", "kitty", "iterm2", "sixel", "blocks", "off")
# The only ones that transformers' image processor for Gemma 4 takes.
IMAGE_TOKEN_BUDGETS = (70, 140, 280, 560, 1120)
DEFAULT_IMAGE_TOKENS = 280
KV_BITS = (2, 3, 4, 5, 6, 8, 16)
HEAD_BITS = (8, 16)
WEIGHTS = ("bf16", "int8", "int4", "int3", "int2", "int8-bnb", "nf4")
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
PREFERENCES = ("quality", "context", "speed")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to pick, plan and load a model. `None` means: let the plan decide.

    Attributes:
        model: short name, hub id, folder, `pocket`, or `auto`: what fits (`resolve_model`).
        weights: one of `WEIGHTS`, or None.
        kv_bits: one of `KV_BITS`, or None.
        head_bits: of embedding and output head, one of `HEAD_BITS`, or None.
        prefer: what the plan gives up last, one of `PREFERENCES`, or None for a balance.
        context_tokens: tokens to plan for, or None for the longest that fits.
        image_tokens: soft-token budget of one picture, one of `IMAGE_TOKEN_BUDGETS`, or None for
            the model's own default.
        vram_bytes: plan for a card of this size instead of the one that is there.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        offline: never touch the network.
        may_download: download weights that are not on this machine without asking.
        no_cache: neither read nor write the KV caches of long documents on disk.
        cache_bytes: what these may take together.
        no_log: keep nothing at all: no conversation, no typed line, no cache of a document.
        server: address of a server that has the model; `model` may be an address, too.
        key_file: holds the key that this server asks for.
    """

    model: str = "auto"
    weights: str | None = None
    kv_bits: int | None = None
    context_tokens: int | None = None
    image_tokens: int | None = None
    vram_bytes: int | None = None
    device: str = "auto"
    offline: bool = False
    may_download: bool = False
    no_cache: bool = False
    no_log: bool = False
    cache_bytes: int = 16 * 2**30
    head_bits: int | None = None
    prefer: str | None = None
    server: str | None = None
    key_file: str | None = None

    def __post_init__(self) -> None:
        _check_choice("--weights", self.weights, WEIGHTS)
        _check_choice("--kv-bits", self.kv_bits, KV_BITS)
        _check_choice("--head-bits", self.head_bits, HEAD_BITS)
        _check_choice("--prefer", self.prefer, PREFERENCES)
        _check_choice("--image-tokens", self.image_tokens, IMAGE_TOKEN_BUDGETS)
        if self.context_tokens is not None and self.context_tokens < 1:
            raise UsageError(
                f"--context is {self.context_tokens}; it needs at least 1 token, and without it the"
                " longest context that fits is taken"
            )
        if self.cache_bytes < 1:
            raise UsageError(f"cache size is {self.cache_bytes}; --no-cache turns the cache off")
        if not self.model.strip():
            raise UsageError("--model is empty; give a hub id, a folder, or 'pocket'")
        _ = self.remote  # raises where it makes no sense

    @property
    def remote(self) -> ServerAddress | None:
        """The server that is to answer, and its model; None where the model runs here.

        Raises:
            UsageError: an address is none.
        """
        if is_address(self.model):
            return parse_address(self.model, name="--model")
        if self.server is None:
            return None
        address = parse_address(self.server)
        return address if self.model == "auto" else replace(address, model=self.model)


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How the next token is drawn. The defaults are Gemma 4's recommendation (model card).

    Attributes:
        temperature: 0 is greedy and repeats to the bit on the same machine; None is the model's
            own, from its generation_config.json: 1 for Google's, 0 for the pocket model.
        top_p: nucleus mass in (0, 1].
        top_k: candidates kept; 0 keeps all.
        min_p: candidates below this share of the best one's probability are dropped; 0 is off.
        seed: None draws a fresh one, which `Done` reports.
        max_tokens: longest answer; None runs to the end of the context.
        repetition_penalty: divides the logits of the latest tokens of the answer; 1 is off.
    """

    temperature: float | None = None
    top_p: float = 0.95
    top_k: int = 64
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 1.0 <= self.repetition_penalty <= 2.0:
            raise UsageError(
                f"repetition-penalty is {self.repetition_penalty}; it goes from 1 to 2"
            )
        if self.temperature is not None and not 0.0 <= self.temperature <= 10.0:
            raise UsageError(f"temperature is {self.temperature}; it goes from 0 to 10")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"top-p is {self.top_p}; it lies above 0 and at most at 1")
        if self.top_k < 0:
            raise UsageError(f"top-k is {self.top_k}; it is 0 (off) or more")
        if not 0.0 <= self.min_p < 1.0:
            raise UsageError(f"min-p is {self.min_p}; it goes from 0 to below 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max-tokens is {self.max_tokens}; an answer needs at least 1 token")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; it goes from 0 to 2^63 - 1")


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How answers begin and how questions are typed.

    Attributes:
        system: instructions that stand above the conversation.
        think: let the model think before it answers.
        keys: of the line where people type, one of `EDITING_KEYS`.
        theme: colours, one of `THEMES`.
        pictures: how attached pictures are shown, one of `PICTURES`.
    """

    system: str | None = None
    think: bool = False
    keys: str = "emacs"
    theme: str = "auto"
    pictures: str = "auto"

    def __post_init__(self) -> None:
        _check_choice("keys", self.keys, EDITING_KEYS)
        _check_choice("theme", self.theme, THEMES)
        _check_choice("pictures", self.pictures, PICTURES)


def environment_values() -> dict[str, Any]:
    """Fields of the settings that the environment sets.

    `RQCHAT_MODEL`, `RQCHAT_SERVER` and `RQCHAT_VRAM` are as on the command line, `RQCHAT_THEME` as
    in the file; `RQCHAT_OFFLINE` and the hub client's own `HF_HUB_OFFLINE` are on with 1, true,
    yes or on.

    Raises:
        UsageError: a value makes no sense.
    """
    values: dict[str, Any] = {}
    if model := os.environ.get("RQCHAT_MODEL"):
        values["model"] = model
    if server := os.environ.get("RQCHAT_SERVER"):
        values["server"] = server
    if vram := os.environ.get("RQCHAT_VRAM"):
        values["vram_bytes"] = parse_size_bytes(vram, name="RQCHAT_VRAM")
    if theme := os.environ.get("RQCHAT_THEME"):
        values["theme"] = theme
    if any(_is_on(name) for name in ("RQCHAT_OFFLINE", "HF_HUB_OFFLINE")):
        values["offline"] = True
    return values


def settings_file() -> Path | None:
    """The settings file that `RQCHAT_CONFIG` names, or None."""
    named = os.environ.get("RQCHAT_CONFIG")
    return Path(named) if named else None


def parse_size_bytes(text: str, *, name: str = "--vram") -> int:
    """Bytes of `24`, `24G` or `24GiB` (2^30), `24GB` (10^9), `512MiB`, or a large number of bytes.

    Raises:
        UsageError: `text` is no size, or less than a MiB.
    """
    units = {"": 1, "b": 1, "mb": 10**6, "mib": 2**20, "m": 2**20}
    units |= {"gb": 10**9, "gib": 2**30, "g": 2**30, "tb": 10**12, "tib": 2**40, "t": 2**40}
    cleaned = text.strip().lower().replace("_", "")
    number = cleaned.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = cleaned[len(number) :].strip()
    try:
        # No card has so few bytes, and people name cards by their GiB
        is_gib = not unit and float(number) < 2**20
        size_bytes = int(float(number) * units["gib" if is_gib else unit])
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"{name} is {text!r}; write a size such as 24GiB or 16GB") from None
    if size_bytes < 2**20:
        raise UsageError(f"{name} is {text!r}, which is {size_bytes:,} bytes; write such as 24GiB")
    return size_bytes


def visible_gpus(*variables: str) -> tuple[str, ...] | None:
    """Indices or UUIDs in the first of these that is set, as torch reads them; None without any."""
    text = next((os.environ[name] for name in variables if name in os.environ), None)
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip())


def order_gpus_by_bus() -> None:
    """Makes CUDA number its cards as the driver lists them; it would take the fastest first."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def let_segments_grow() -> None:
    """Has torch's allocator grow one segment instead of taking many that leave holes.

    Torch reads it once, while it is imported, so this comes first. 2.11 to 2.13 obey either name
    (2.9 the old one alone); what the user has set stays, under whichever name.
    """
    if not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        os.environ[ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"


def compiled_kernels_folder() -> Path:
    """Where Triton keeps what it has compiled (its `knobs.py`)."""
    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    return Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on")


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value is not None and value not in allowed:
        choices = ", ".join(str(choice) for choice in allowed)
        raise UsageError(f"{name} is {value!r}; allowed are {choices}")
