"""What the engine says while it works: frozen records, read by screen, `--json` and benchmarks.

No torch here, so that the screen can import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Done",
    "Event",
    "FilesRead",
    "InputEvent",
    "InputNotice",
    "InputProgress",
    "LoadProgress",
    "MemoryUse",
    "ModelFacts",
    "Notice",
    "PrefillProgress",
    "StopReason",
    "TextDelta",
    "ThoughtDelta",
    "Timing",
    "TokenCounts",
    "ToolRequest",
    "ignore",
]

StopReason = Literal["eos", "length", "interrupted", "repetition"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One line for the user, such as 'no GPU found: using the pocket model'."""

    text: str


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Loading the model: `done_bytes` of `total_bytes` (0 when unknown) in `stage`.

    `bytes_per_s` is the rate so far; 0 where it is not known.
    """

    stage: str
    done_bytes: int
    total_bytes: int
    bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class InputProgress:
    """A slow step of reading the input `name`: it begins, or it is over, well or not.

    `waiting for` is said of what has not ended after a while, and may never do so.
    """

    step: Literal["fetching", "reading", "waiting for"]
    name: str
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class FilesRead:
    """What `reference`, a folder or a pattern, has come to.

    Attributes:
        reference: as the user wrote it.
        names: of the files that were read.
        left_out: of the files that are neither text in `encoding` nor a picture.
        encoding: such as `utf-8`.
    """

    reference: str
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    encoding: str


@dataclass(frozen=True, slots=True)
class InputNotice:
    """What the user should know of an input that was read, such as pages without text."""

    text: str


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """Reading the prompt. `cached_tokens` of `total_tokens` needed no work."""

    done_tokens: int
    total_tokens: int
    cached_tokens: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class ThoughtDelta:
    """A piece of the model's thought channel; never part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer. The answer is the concatenation of all of them."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call that the model makes of a tool; only where it was told of some."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Token counts of one answer: `input` is the whole prompt, images and cached part included."""

    input: int
    image: int
    cached: int
    output: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds and rates of one answer. `load_s` is the model load of this process."""

    load_s: float
    prefill_s: float
    decode_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Planned and measured peak memory, weights and cache included, in bytes."""

    planned_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What besides the plan decides which answer comes out.

    Attributes:
        revision: commit of a hub model, or a fingerprint of its files.
        kv_mode: how the cache packs.
        temperature: the model's own.
        torch: version.
        calibration: digest of what the cache knows of the model; empty for nothing.
    """

    revision: str
    kv_mode: str
    temperature: float
    torch: str
    calibration: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of an answer, also of an interrupted one."""

    stop_reason: StopReason
    seed: int
    tokens: TokenCounts
    timing: Timing
    memory: MemoryUse


InputEvent = InputProgress | FilesRead | InputNotice
Event = Notice | LoadProgress | PrefillProgress | ThoughtDelta | TextDelta | ToolRequest | Done


def ignore(event: Event) -> None:
    """Takes events where nobody wants them."""
