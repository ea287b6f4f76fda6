"""The options that several commands share, in groups by the fields of the settings.

An option that was not given is None and leaves the default where it is written: in `Settings`
and `SamplingSettings`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

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
    "SESSION",
    "Continue",
    "Given",
    "Quiet",
    "Resume",
    "taking",
]

_MODEL = "Model and memory"
_ANSWER = "Answer"
_NO_CACHE = "Read long documents anew, and keep nothing of them."
_THINK = "Let the model think first; thoughts go to standard error."
_WHICH_MODEL = "Hub id, folder, or 'pocket'; else Gemma 4 31B with a GPU, 'pocket' without."

Continue = Annotated[
    bool, typer.Option("--continue", "-c", help="Go on with the latest conversation.")
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", "-r", metavar="ID", help="Go on with this one, by id or name."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No notices and no progress; errors stay.")]


def _offer(*values: object) -> Callable[[str], list[str]]:
    """Completes a word to those of `values` that begin with it."""
    return lambda incomplete: [str(value) for value in values if str(value).startswith(incomplete)]


def _offer_presets(incomplete: str) -> list[str]:
    try:
        return _offer(*read_file(places.config_file()).presets)(incomplete)
    except UsageError:
        return []


def _value(
    kind: type, metavar: str, help: str, *names: str, panel: str | None = None, **more: Any
) -> Any:
    option = typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)
    return Annotated[kind | None, option]


def _choice(kind: type, metavar: str, help: str, values: tuple[object, ...], *names: str) -> Any:
    """One of `values`, which stand in place of the braces in `help`."""
    told = help.format(", ".join(map(str, values)))
    return _value(kind, metavar, told, *names, panel=_MODEL, autocompletion=_offer(*values))


def _flag(help: str, *names: str, panel: str | None = None) -> Any:
    return Annotated[bool, typer.Option(*names, help=help, rich_help_panel=panel)]


MODEL: Group = {
    "preset": _value(
        str,
        "NAME",
        "Settings that the settings file has under this name.",
        autocompletion=_offer_presets,
    ),
    "model": _value(str, "NAME", _WHICH_MODEL, "--model", "-m", panel=_MODEL),
    "weights": _choice(str, "W", "One of {}.", WEIGHTS),
    "kv_bits": _choice(int, "B", "Bits of the KV cache: {}.", KV_BITS),
    "head_bits": _choice(int, "B", "Bits of embedding and output head: {}.", HEAD_BITS),
    "context_tokens": _value(
        int, "N", "Tokens to hold; else as many as fit.", "--context", panel=_MODEL
    ),
    "prefer": _choice(str, "P", "What the plan gives up last: {}; else a balance.", PREFERENCES),
    "image_tokens": _choice(int, "N", "Most tokens per picture: {}.", IMAGE_TOKEN_BUDGETS),
    "device": _value(
        str, "D", "auto, cpu, mps, cuda, or cuda:N for one of several GPUs.", panel=_MODEL
    ),
    "offline": _flag("Never touch the network.", "--offline", panel=_MODEL),
}
SESSION: Group = {
    **MODEL,
    "no_cache": _flag(_NO_CACHE, "--no-cache", panel=_MODEL),
    "no_log": _flag("Save nothing of this.", "--no-log", "-n"),
}
MANNER: Group = {
    "system": _value(str, "TEXT", "Instructions that stand above the chat.", "--system", "-s"),
    "think": _flag(_THINK, "--think"),
}
ANSWER: Group = {
    "max_tokens": _value(int, "N", "Longest answer.", panel=_ANSWER),
    "temperature": _value(float, "T", "0 is greedy and repeats itself exactly.", panel=_ANSWER),
    "top_p": _value(float, "P", "Nucleus mass, above 0 to 1.", panel=_ANSWER),
    "top_k": _value(int, "K", "Candidates kept; 0 keeps all.", panel=_ANSWER),
    "seed": _value(int, "S", "Makes a sampled answer repeatable.", panel=_ANSWER),
}
