"""/think and /set: how answers are drawn."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.registry import Command, words
from rqchat.cli.hints import did_you_mean
from rqchat.engine.settings import EDITING_KEYS, SamplingSettings
from rqchat.errors import UsageError

__all__ = ["COMMANDS", "changed_sampling"]

_NOT_SET = ("off", "none", "random")
_WHOLE_NUMBERS = ("top_k", "seed", "max_tokens")


def changed_sampling(sampling: SamplingSettings, name: str, value: str) -> SamplingSettings:
    """`sampling` with the field `name` (dashes or underscores) read from `value`.

    Raises:
        UsageError: there is no such field, or it does not take that value.
    """
    name = name.replace("-", "_")
    names = [field.name for field in fields(sampling)]
    if name not in names:
        hint = did_you_mean(_dashed(name), [*_SET_NAMES, "keys"]) or "; /set lists what there is"
        if name == "system":
            hint = "; /system TEXT sets the instructions"
        raise UsageError(f"there is nothing called {_dashed(name)} to set{hint}")
    if value in _NOT_SET:
        return replace(sampling, **{name: getattr(SamplingSettings(), name)})
    try:
        number = int(value) if name in _WHOLE_NUMBERS else float(value)
    except ValueError:
        kind = "a whole number" if name in _WHOLE_NUMBERS else "a number"
        raise UsageError(f"{_dashed(name)} takes {kind}, or 'off' for its default") from None
    changed: dict[str, Any] = {name: number}
    return replace(sampling, **changed)


def _think(chat: Chat, argument: str) -> None:
    match argument:
        case "on" | "off":
            chat.session().thinking = argument == "on"
            chat.say(f"thinking is {argument}")
        case "fold" | "unfold":
            chat.fold_thoughts = argument == "fold"
            chat.say("thoughts take one line" if chat.fold_thoughts else "thoughts are shown")
        case "show":
            thoughts = chat.turns.view.thoughts.strip() if chat.turns.view else ""
            for line in thoughts.splitlines() or ["the last answer came without thoughts"]:
                chat.say(line, "thought")
        case "":
            state = "on" if chat.session().thinking else "off"
            chat.say(f"thinking is {state}; 'fold', 'unfold' and 'show' are for thoughts that came")
        case _:
            raise UsageError("/think takes 'on' or 'off', 'fold' or 'unfold', or 'show'")


def _set(chat: Chat, argument: str) -> None:
    given = argument.removeprefix("parameter ")  # as ollama has it
    name, _, value = given.replace("=", " ", 1).partition(" ")
    if name == "keys":
        _set_keys(chat, value.strip())
        return
    if name:
        chat.sampling = changed_sampling(chat.sampling, name, value.strip())
    for field in fields(chat.sampling):
        if not name or field.name == name.replace("-", "_"):
            current = getattr(chat.sampling, field.name)
            chat.say(f"{_dashed(field.name)} = {'not set' if current is None else current}")
    if not name:
        _show_keys(chat)


def _set_keys(chat: Chat, value: str) -> None:
    if value not in EDITING_KEYS:
        raise UsageError("keys are 'emacs' or 'vi'")
    if chat.editor is not None:
        chat.editor.vi = value == "vi"
    _show_keys(chat)


def _show_keys(chat: Chat) -> None:
    chat.say(f"keys = {'vi' if chat.editor is not None and chat.editor.vi else 'emacs'}")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


_SET_NAMES = tuple(_dashed(field.name) for field in fields(SamplingSettings))
COMMANDS = (
    Command(
        "/think",
        "[on|off|fold|unfold|show]",
        "let it think first; how thoughts show",
        _think,
        words("on", "off", "fold", "unfold", "show"),
    ),
    Command(
        "/set",
        "[NAME VALUE]",
        "show or change how answers are drawn",
        _set,
        words(*_SET_NAMES, "keys"),
        at_once=True,
    ),
)
