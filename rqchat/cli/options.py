"""The options that several commands share, and the settings made of them.

An option that was not given is None and leaves the default where it is written: in `Settings`
and `SamplingSettings`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from rqchat.engine.settings import (
    HEAD_BITS,
    IMAGE_TOKEN_BUDGETS,
    KV_BITS,
    PREFERENCES,
    WEIGHTS,
    SamplingSettings,
    Settings,
)

__all__ = [
    "ANSWER",
    "MODEL",
    "NO_VALUE",
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


Command = Callable[..., None]
Group = Mapping[str, Any]  # field of the settings -> its option


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
    typer.Option(
        "--offline", metavar=NO_VALUE, help="Never touch the network.", rich_help_panel=_MODEL
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        metavar=NO_VALUE,
        help="Read long documents anew, and keep nothing of them.",
        rich_help_panel=_MODEL,
    ),
]
NoLog = Annotated[
    bool, typer.Option("--no-log", "-n", metavar=NO_VALUE, help="Save nothing of this.")
]
Continue = Annotated[
    bool,
    typer.Option("--continue", "-c", metavar=NO_VALUE, help="Go on with the latest conversation."),
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
        metavar=NO_VALUE,
        help="Let the model think first; thoughts go to standard error.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", metavar=NO_VALUE, help="No notices and no progress; errors stay."),
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
ANSWER: Group = {
    "max_tokens": MaxTokens,
    "temperature": Temperature,
    "top_p": TopP,
    "top_k": TopK,
    "seed": Seed,
}


class Given:
    """What was given on the command line, by the names of the settings' fields."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = _given(values)

    def settings(self, **more: Any) -> Settings:
        """`Settings` from the environment with what was given, and `more`, on top.

        Raises:
            UsageError: a value is out of range.
        """
        return replace(Settings.from_environment(), **self._of(SESSION), **_given(more))

    def sampling(self) -> SamplingSettings:
        """`SamplingSettings` with what was given on top.

        Raises:
            UsageError: a value is out of range.
        """
        return replace(SamplingSettings(), **self._of(ANSWER))

    def _of(self, group: Group) -> dict[str, Any]:
        return {name: self._values[name] for name in group if name in self._values}


def taking(*groups: Group) -> Callable[[Command], Command]:
    """Gives a command the options of `groups`; it gets them as its one parameter `given`."""
    options = {name: option for group in groups for name, option in group.items()}

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        shown = [p for p in signature.parameters.values() if p.name != "given"]
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in options.items()
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            taken = {name: values.pop(name) for name in options}
            command(**values, given=Given(taken))

        run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return run

    return decorate


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without options that were left out (None) and flags that were not set."""
    return {
        name: value for name, value in values.items() if value is not None and value is not False
    }
