"""The options that several commands share, and the settings made of them.

An option that was not given is None and leaves the default where it is written: in `Settings`
and `SamplingSettings`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from rqchat.cli import places
from rqchat.cli.given import Given, Group, taking
from rqchat.cli.layers import read_file
from rqchat.engine.settings import (
    HEAD_BITS,
    IMAGE_TOKEN_BUDGETS,
    KV_BITS,
    PREFERENCES,
    WEIGHTS,
)
from rqchat.errors import UsageError

__all__ = [
    "ANSWER",
    "MANNER",
    "MODEL",
    "SYSTEM",
    "ContextTokens",
    "Continue",
    "Device",
    "Given",
    "HeadBits",
    "ImageTokens",
    "KvBits",
    "MaxTokens",
    "Model",
    "NoLog",
    "Offline",
    "Prefer",
    "Preset",
    "Quiet",
    "Resume",
    "Seed",
    "System",
    "Temperature",
    "Think",
    "TopK",
    "TopP",
    "Weights",
    "taking",
]


def _choices(values: tuple[object, ...]) -> str:
    return ", ".join(str(value) for value in values)


def _offer(*values: object) -> Callable[[str], list[str]]:
    """Completes a word to those of `values` that begin with it."""
    return lambda incomplete: [str(value) for value in values if str(value).startswith(incomplete)]


def _offer_presets(incomplete: str) -> list[str]:
    try:
        return _offer(*read_file(places.config_file()).presets)(incomplete)
    except UsageError:
        return []


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
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Settings that the settings file has under this name.",
        autocompletion=_offer_presets,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="W",
        help=f"One of {_choices(WEIGHTS)}.",
        autocompletion=_offer(*WEIGHTS),
        rich_help_panel=_MODEL,
    ),
]
KvBits = Annotated[
    int | None,
    typer.Option(
        metavar="B",
        help=f"Bits of the KV cache: {_choices(KV_BITS)}.",
        autocompletion=_offer(*KV_BITS),
        rich_help_panel=_MODEL,
    ),
]
HeadBits = Annotated[
    int | None,
    typer.Option(
        metavar="B",
        help=f"Bits of embedding and output head: {_choices(HEAD_BITS)}.",
        rich_help_panel=_MODEL,
    ),
]
Prefer = Annotated[
    str | None,
    typer.Option(
        metavar="P",
        help=f"What the plan gives up last: {_choices(PREFERENCES)}; else a balance.",
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
        autocompletion=_offer(*IMAGE_TOKEN_BUDGETS),
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="D",
        help="auto, cpu, mps, cuda, or cuda:N for one of several GPUs.",
        rich_help_panel=_MODEL,
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Never touch the network.", rich_help_panel=_MODEL),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Read long documents anew, and keep nothing of them.",
        rich_help_panel=_MODEL,
    ),
]
NoLog = Annotated[bool, typer.Option("--no-log", "-n", help="Save nothing of this.")]
Continue = Annotated[
    bool,
    typer.Option("--continue", "-c", help="Go on with the latest conversation."),
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", "-r", metavar="ID", help="Go on with this one, by id or name."),
]
System = Annotated[
    str | None,
    typer.Option("--system", "-s", metavar="TEXT", help="Instructions that stand above the chat."),
]
Think = Annotated[
    bool,
    typer.Option(
        "--think",
        help="Let the model think first; thoughts go to standard error.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", help="No notices and no progress; errors stay."),
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


MODEL: Group = {
    "preset": Preset,
    "model": Model,
    "weights": Weights,
    "kv_bits": KvBits,
    "head_bits": HeadBits,
    "context_tokens": ContextTokens,
    "prefer": Prefer,
    "image_tokens": ImageTokens,
    "device": Device,
    "offline": Offline,
}
SESSION: Group = {**MODEL, "no_cache": NoCache, "no_log": NoLog}
SYSTEM: Group = {"system": System}
MANNER: Group = {**SYSTEM, "think": Think}
ANSWER: Group = {
    "max_tokens": MaxTokens,
    "temperature": Temperature,
    "top_p": TopP,
    "top_k": TopK,
    "seed": Seed,
}
