"""All slash commands, and how a line is told to be one.

A line is a command when its first word is `/` and a name without a further slash, and no such
file exists: `/home/me/cat.png` and `/tmp` are not mistaken for commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rqchat.cli.chat.slash import (
    attach_commands,
    context_commands,
    conversation_commands,
    model_commands,
    sampling_commands,
    turn_commands,
)
from rqchat.cli.chat.slash.registry import Command
from rqchat.cli.hints import did_you_mean
from rqchat.errors import UsageError

if TYPE_CHECKING:
    from rqchat.cli.chat.chat import Chat
from rqchat.ui.tables import help_table

__all__ = ["COMMANDS", "KEYS", "all_commands", "is_command", "run_command", "runs_at_once"]

KEYS = (
    ("Enter", "send"),
    ("Alt-Enter, Ctrl-J", 'new line; Enter makes one too after an open """'),
    ("Tab", "complete a command and what it takes"),
    ("Up, Ctrl-R", "earlier lines, search them"),
    ("Ctrl-X Ctrl-E", "write in $VISUAL or $EDITOR"),
    ("Ctrl-C, Esc", "stop the answer and keep what came"),
    ("Ctrl-C", "clear what is typed; twice in two seconds: leave"),
    ("Ctrl-D", "leave"),
    ("Ctrl-Z", "to the shell for a while; its fg comes back"),
)


def _help(chat: Chat, argument: str) -> None:
    rows = [(command.usage, command.summary) for command in chat.commands.values()]
    chat.show(help_table([*rows, ("", ""), *KEYS]))


def _exit(chat: Chat, argument: str) -> None:
    raise EOFError


COMMANDS = (
    Command("/help", "", "this list", _help, aliases=("/?", "help", "?"), at_once=True),
    Command(
        "/exit",
        "",
        "leave, as /quit, /bye, exit and quit do",
        _exit,
        aliases=("/quit", "/bye", "exit", "quit"),
        at_once=True,
    ),
)


_FAMILIES = (
    COMMANDS,
    attach_commands.COMMANDS,
    turn_commands.COMMANDS,
    conversation_commands.COMMANDS,
    context_commands.COMMANDS,
    sampling_commands.COMMANDS,
    model_commands.COMMANDS,
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
