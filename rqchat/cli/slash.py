"""The slash commands of the chat.

A line is a command when its first word is `/` and a name without a further slash, and no such
file exists: `/home/me/cat.png` and `/tmp` are not mistaken for commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rqchat.cli.paths import split_paths
from rqchat.cli.suggest import did_you_mean
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import UsageError

if TYPE_CHECKING:
    from rqchat.cli.chat import Chat

__all__ = ["COMMANDS", "Command", "completions", "is_command", "run_command"]

_NOT_SET = ("off", "none", "random")
_SWITCH = ("on", "off")
_WHOLE_NUMBERS = ("top_k", "seed", "max_tokens")


@dataclass(frozen=True, slots=True)
class Command:
    """One slash command.

    Attributes:
        usage: how it is typed.
        summary: what it does, for `/help`.
        run: does it, given the chat and the rest of the line.
        words: what Tab offers after it; None offers paths.
    """

    usage: str
    summary: str
    run: Callable[[Chat, str], None]
    words: tuple[str, ...] | None = ()


def is_command(line: str) -> bool:
    """Whether `line` is meant as a slash command, known or not."""
    word = line.split(maxsplit=1)[0] if line.strip() else ""
    if not word.startswith("/") or "/" in word[1:]:
        return False
    return word == "/" or _lookup(word) is not None or not Path(word).exists()


def run_command(chat: Chat, line: str) -> None:
    """Do what `line` says.

    Raises:
        UsageError: there is no such command, or its argument makes no sense.
        EOFError: the command leaves the chat.
    """
    word, _, rest = line.strip().partition(" ")
    command = _lookup(word)
    if command is None:
        hint = did_you_mean(word, COMMANDS) or "; /help lists them"
        raise UsageError(f"there is no command {word}{hint}")
    command.run(chat, rest.strip())


def completions() -> dict[str, tuple[str, ...] | None]:
    """What Tab offers after each command, for the line editor."""
    return {name: command.words for name, command in COMMANDS.items()}


def _lookup(word: str) -> Command | None:
    return COMMANDS.get(_ALIASES.get(word, word))


def _help(chat: Chat, argument: str) -> None:
    rows = [(command.usage, command.summary) for command in COMMANDS.values()]
    chat.show_help([*rows, *_KEYS])


def _image(chat: Chat, argument: str) -> None:
    for path in _some_paths(argument, "/image cat.png"):
        chat.attach_picture(path)


def _file(chat: Chat, argument: str) -> None:
    for path in _some_paths(argument, "/file notes.txt"):
        chat.attach_document(path)


def _some_paths(argument: str, example: str) -> tuple[Path, ...]:
    if not argument:
        raise UsageError(f"which one? for example: {example}")
    return split_paths(argument)


def _clear(chat: Chat, argument: str) -> None:
    chat.clear()


def _system(chat: Chat, argument: str) -> None:
    if argument:
        chat.set_system(None if argument in _NOT_SET else argument)
    else:
        chat.say(chat.system or "no system prompt; /system TEXT sets one")


def _think(chat: Chat, argument: str) -> None:
    if argument not in _SWITCH:
        raise UsageError("/think takes 'on' or 'off'")
    chat.set_thinking(argument == "on")


def _set(chat: Chat, argument: str) -> None:
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    if name:
        chat.sampling = _changed(chat.sampling, name.replace("-", "_"), value.strip())
    for field in fields(chat.sampling):
        if not name or field.name == name.replace("-", "_"):
            current = getattr(chat.sampling, field.name)
            chat.say(f"{_dashed(field.name)} = {'not set' if current is None else current}")


def _changed(sampling: SamplingSettings, name: str, value: str) -> SamplingSettings:
    names = [field.name for field in fields(sampling)]
    if name not in names:
        hint = did_you_mean(_dashed(name), _SET_NAMES)
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


def _stats(chat: Chat, argument: str) -> None:
    chat.show_stats()


def _exit(chat: Chat, argument: str) -> None:
    raise EOFError


def _dashed(name: str) -> str:
    return name.replace("_", "-")


_SET_NAMES = tuple(_dashed(field.name) for field in fields(SamplingSettings))
_ALIASES = {"/?": "/help", "/quit": "/exit", "/bye": "/exit", "/new": "/clear"}
_KEYS = (
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", "new line"),
    ("Up, Ctrl-R", "earlier lines, search them"),
    ("Ctrl-C", "stop the answer and keep what came; twice at an empty line: leave"),
    ("Ctrl-D", "leave"),
)
COMMANDS = {
    "/help": Command("/help", "this list", _help),
    "/image": Command("/image PATH...", "attach pictures to the next message", _image, None),
    "/file": Command("/file PATH...", "attach text files to the next message", _file, None),
    "/clear": Command("/clear", "forget the conversation and what is attached", _clear),
    "/system": Command("/system [TEXT|off]", "show, set or remove the instructions", _system),
    "/think": Command("/think on|off", "let the model think before it answers", _think, _SWITCH),
    "/set": Command("/set [NAME VALUE]", "show or change how answers are drawn", _set, _SET_NAMES),
    "/stats": Command("/stats", "tokens, speed and memory of the last answer", _stats),
    "/exit": Command("/exit", "leave", _exit),
}
