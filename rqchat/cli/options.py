"""The options that several commands share, and the settings made of them.

An option that was not given is None and leaves the default where it is written: in `Settings`
and `SamplingSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import typer

from rqchat.engine.settings import (
    IMAGE_TOKEN_BUDGETS,
    KV_BITS,
    WEIGHTS,
    SamplingSettings,
    Settings,
)

__all__ = [
    "NO_VALUE",
    "ContextTokens",
    "Device",
    "ImageTokens",
    "KvBits",
    "MaxTokens",
    "Model",
    "Offline",
    "Quiet",
    "Seed",
    "System",
    "Temperature",
    "Think",
    "TopK",
    "TopP",
    "Weights",
    "make_sampling",
    "make_settings",
]


def _choices(values: tuple[object, ...]) -> str:
    return ", ".join(str(value) for value in values)


NO_VALUE = ""  # the metavar of a flag; Typer would write <bool>
_MODEL = "Model and memory"
_ANSWER = "Answer"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Hub id, folder, or 'pocket'; else Gemma 4 31B with a GPU, 'pocket' without.",
        rich_help_panel=_MODEL,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="W", help=f"One of {_choices(WEIGHTS)}.", rich_help_panel=_MODEL),
]
KvBits = Annotated[
    int | None,
    typer.Option(
        metavar="B",
        help=f"Bits of the KV cache: {_choices(KV_BITS)}.",
        rich_help_panel=_MODEL,
    ),
]
ContextTokens = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        help="Tokens to hold; else as many as fit.",
        rich_help_panel=_MODEL,
    ),
]
ImageTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help=f"Most tokens per picture: {_choices(IMAGE_TOKEN_BUDGETS)}.",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="D",
        help="auto, cpu, cuda, or cuda:N for one of several GPUs.",
        rich_help_panel=_MODEL,
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", metavar=NO_VALUE, help="Never touch the network.", rich_help_panel=_MODEL
    ),
]
System = Annotated[
    str | None,
    typer.Option("--system", "-s", metavar="TEXT", help="Instructions that stand above the chat."),
]
Think = Annotated[
    bool,
    typer.Option(
        "--think",
        metavar=NO_VALUE,
        help="Let the model think first; thoughts go to standard error.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", metavar=NO_VALUE, help="No notices and no progress; errors stay."
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(metavar="N", help="Longest answer.", rich_help_panel=_ANSWER)
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        help="0 is greedy and repeats itself exactly.",
        rich_help_panel=_ANSWER,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(metavar="P", help="Nucleus mass, above 0 to 1.", rich_help_panel=_ANSWER),
]
TopK = Annotated[
    int | None,
    typer.Option(metavar="K", help="Candidates kept; 0 keeps all.", rich_help_panel=_ANSWER),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="S", help="Makes a sampled answer repeatable.", rich_help_panel=_ANSWER),
]


def make_settings(**given: str | int | None) -> Settings:
    """`Settings` from the environment with what was given on top; None is not given.

    Raises:
        UsageError: a value is out of range.
    """
    return replace(Settings.from_environment(), **_given(given))  # type: ignore[arg-type]


def make_sampling(**given: float | None) -> SamplingSettings:
    """`SamplingSettings` with what was given on top; None is not given.

    Raises:
        UsageError: a value is out of range.
    """
    return replace(SamplingSettings(), **_given(given))  # type: ignore[arg-type]


def _given(values: Mapping[str, float | str | None]) -> dict[str, float | str]:
    return {name: value for name, value in values.items() if value is not None}
