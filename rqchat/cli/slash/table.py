"""All slash commands, and how a line is told to be one.

A line is a command when its first word is `/` and a name without a further slash, and no such
file exists: `/home/me/cat.png` and `/tmp` are not mistaken for commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rqchat.cli.slash import attaching, basics, drawing, holding, keeping, models, talk, turns
from rqchat.cli.slash.registry import Command
from rqchat.cli.suggest import did_you_mean
from rqchat.errors import UsageError

if TYPE_CHECKING:
    from rqchat.cli.chat import Chat

__all__ = ["all_commands", "is_command", "run_command", "runs_at_once"]

_FAMILIES = (
    basics.COMMANDS,
    attaching.COMMANDS,
    turns.COMMANDS,
    talk.COMMANDS,
    holding.COMMANDS,
    keeping.COMMANDS,
    drawing.COMMANDS,
    models.COMMANDS,
)


def all_commands() -> dict[str, Command]:
    """Every command by its name, in the order of `/help`."""
    return {command.name: command for family in _FAMILIES for command in family}


def is_command(line: str) -> bool:
    """Whether `line` is meant as a slash command, known or not."""
    word = line.split(maxsplit=1)[0] if line.strip() else ""
    if not word.startswith("/"):
        return _lookup(line.strip()) is not None  # exit and quit, and nothing beside them
    if "/" in word[1:]:
        return False
    return word == "/" or _lookup(word) is not None or not Path(word).exists()


def runs_at_once(line: str) -> bool:
    """Whether `line` is a command that need not wait for the model; unknown ones need not."""
    if not is_command(line):
        return False
    command = _lookup(line.split(maxsplit=1)[0])
    return command is None or command.at_once


def run_command(chat: Chat, line: str) -> None:
    """Do what `line` says.

    Raises:
        UsageError: there is no such command, or its argument makes no sense.
        RqchatError: the command cannot do it.
        EOFError: the command leaves the chat.
    """
    word, _, rest = line.strip().partition(" ")
    command = _lookup(word)
    if command is None:
        hint = did_you_mean(word, all_commands()) or "; /help lists them"
        raise UsageError(f"there is no command {word}{hint}")
    command.run(chat, rest.strip())


def _lookup(word: str) -> Command | None:
    for command in all_commands().values():
        if word in (command.name, *command.aliases):
            return command
    return None
