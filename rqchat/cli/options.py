"""The options that several commands share, and how their values become settings.

The groups `MODEL`, `SESSION`, `CHAT` and `ANSWER` are named by the fields of the settings. An
option that was not given is None, so that defaults stand in one place: `rqchat.engine.settings`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any

import typer

from rqchat.cli import app_folders
from rqchat.cli.setting_layers import layered, read_file
from rqchat.engine.settings import (
    HEAD_BITS,
    IMAGE_TOKEN_BUDGETS,
    KV_BITS,
    PREFERENCES,
    WEIGHTS,
    ChatSettings,
    SamplingSettings,
    Settings,
)
from rqchat.errors import UsageError

__all__ = [
    "ANSWER",
    "CHAT",
    "MODEL",
    "SESSION",
    "Command",
    "Continue",
    "GivenOptions",
    "Group",
    "Pages",
    "Quiet",
    "Resume",
    "accepts",
]

Command = Callable[..., None]
Group = Mapping[str, Any]  # field of the settings -> its option


class GivenOptions:
    """The options of one call, which override what the file and the environment set."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """`values` are by the names of the settings' fields; None and False mean: not given."""
        self._values = _without_unset(values)
        self._preset = self._values.pop("preset", None)

    def has(self, name: str) -> bool:
        """Whether the command line itself sets `name`."""
        return name in self._values

    def settings(self, **more: Any) -> Settings:
        """How to pick, plan and load a model; `more` are options of one command alone.

        Raises:
            UsageError: a value is out of range, here, in the settings file or the environment.
        """
        return Settings(**self._of(Settings, more))

    def sampling(self) -> SamplingSettings:
        """How answers are drawn.

        Raises:
            UsageError: a value is out of range, here, in the settings file or the environment.
        """
        values = self._of(SamplingSettings, {})
        try:
            return SamplingSettings(**values)
        except UsageError as error:  # of an option: the settings file has been checked before
            raise UsageError(f"--{error}") from None

    def chat_settings(self) -> ChatSettings:
        """How answers begin.

        Raises:
            UsageError: the settings file or the environment holds what makes no sense.
        """
        return ChatSettings(**self._of(ChatSettings, {}))

    def _of(self, record: type, more: Mapping[str, Any]) -> dict[str, Any]:
        found = layered({**self._values, **_without_unset(more)}, self._preset)
        return {field.name: found[field.name].value for field in fields(record)}


def accepts(*groups: Group) -> Callable[[Command], Command]:
    """A decorator that gives a command the options of `groups`, in its parameter `given`."""
    options = {name: option for group in groups for name, option in group.items()}

    def decorate(command: Command) -> Command:
        # Annotations are strings in our modules, and Typer needs the types that they stand for
        signature = inspect.signature(command, eval_str=True)
        shown = [p for p in signature.parameters.values() if p.name != "given"]
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in options.items()
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            taken = {name: values.pop(name) for name in options}
            command(**values, given=GivenOptions(taken))

        # Typer takes the options from the signature, of which `**values` says nothing
        run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return run

    return decorate


def _without_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without options that were left out and flags that were not set."""
    return {name: v for name, v in values.items() if v is not None and v is not False}


_MODEL = "Model and memory"
_ANSWER = "Answer"
_MOST_DIGITS = 12
_NO_CACHE = "Read long documents anew, and keep nothing of them."
_THINK = "Let the model think first; thoughts go to standard error."
_WHICH_MODEL = (
    "31b, 26b-a4b, 12b, e4b, e2b, a hub id, folder, GGUF file or 'pocket'; else what fits here."
)

Continue = Annotated[
    bool, typer.Option("--continue", "-c", help="Go on with the latest conversation.")
]
Resume = Annotated[
    str | None,
    typer.Option("--resume", "-r", metavar="ID", help="Go on with this one, by id or name."),
]
Pages = Annotated[
    str | None,
    typer.Option(metavar="PAGES", help="Of PDF files, such as 3, 3-9, 12- or 1,4-6; else all."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No notices and no progress; errors stay.")]


def _offer(*values: object) -> Callable[[str], list[str]]:
    """Completes a word to those of `values` that begin with it."""
    return lambda incomplete: [str(value) for value in values if str(value).startswith(incomplete)]


def _offer_presets(incomplete: str) -> list[str]:
    try:
        return _offer(*read_file(app_folders.config_file()).presets)(incomplete)
    except UsageError:  # a message would land in the middle of the line that is being typed
        return []


def _offer_models(incomplete: str) -> list[str]:
    from rqchat.engine.planning.known_models import known_models

    return _offer("pocket", *(model.short_name for model in known_models()))(incomplete)


def _tokens(text: str | int) -> int:
    """Tokens of `32768`, `32,768` or `32K`.

    Raises:
        UsageError: it is none of these.
    """
    digits = str(text).strip().lower().replace(",", "").replace("_", "")
    factor = {"k": 2**10, "m": 2**20}.get(digits[-1:], 1)
    digits = digits[:-1] if factor > 1 else digits
    if not digits.removeprefix("-").isdecimal() or len(digits) > _MOST_DIGITS:
        raise UsageError(f"--context is {text!r}; write a number of tokens such as 32768 or 128K")
    return int(digits) * factor


def _value(
    kind: type, metavar: str, help: str, *names: str, panel: str | None = None, **more: Any
) -> Any:
    option = typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)
    return Annotated[kind | None, option]


def _choice(kind: type, metavar: str, help: str, values: tuple[object, ...], *names: str) -> Any:
    """One of `values`, which stand in place of the braces in `help`."""
    text = help.format(", ".join(map(str, values)))
    return _value(kind, metavar, text, *names, panel=_MODEL, autocompletion=_offer(*values))


def _flag(help: str, *names: str, panel: str | None = None) -> Any:
    return Annotated[bool, typer.Option(*names, help=help, rich_help_panel=panel)]


MODEL: Group = {
    "preset": _value(
        str,
        "NAME",
        "Settings that the settings file has under this name.",
        autocompletion=_offer_presets,
    ),
    "model": _value(
        str, "NAME", _WHICH_MODEL, "--model", "-m", panel=_MODEL, autocompletion=_offer_models
    ),
    "weights": _choice(str, "W", "One of {}.", WEIGHTS),
    "kv_bits": _choice(int, "B", "Bits of the KV cache: {}.", KV_BITS),
    "head_bits": _choice(int, "B", "Bits of embedding and output head: {}.", HEAD_BITS),
    "context_tokens": _value(
        int,
        "N",
        "Tokens to hold, such as 32768 or 128K; else as many as fit.",
        "--context",
        panel=_MODEL,
        parser=_tokens,
    ),
    "prefer": _choice(str, "P", "What the plan gives up last: {}; else a balance.", PREFERENCES),
    "image_tokens": _choice(
        int, "N", "Tokens per picture: {}; else by content.", IMAGE_TOKEN_BUDGETS
    ),
    "device": _value(
        str, "D", "auto, cpu, mps, cuda, or cuda:N for one of several GPUs.", panel=_MODEL
    ),
    "offline": _flag("Never touch the network.", "--offline", panel=_MODEL),
}
SESSION: Group = {
    **MODEL,
    "server": _value(
        str, "URL", "A server that has the model, such as http://localhost:8000/v1.", panel=_MODEL
    ),
    "key_file": _value(
        str, "FILE", "Holds its key, which RQCHAT_API_KEY can hold, too.", panel=_MODEL
    ),
    "may_download": _flag(
        "Download the model if need be, without asking.", "--yes", "-y", panel=_MODEL
    ),
    "no_cache": _flag(_NO_CACHE, "--no-cache", panel=_MODEL),
    "no_log": _flag("Save nothing: no conversation, no typed line, no document.", "--no-log", "-n"),
}
CHAT: Group = {
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
