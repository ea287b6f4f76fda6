"""All slash commands and keys of the chat, in the order of `/help`: everyday ones first."""

from __future__ import annotations

from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash import (
    attach_commands,
    context_commands,
    conversation_commands,
    model_commands,
    sampling_commands,
    turn_commands,
)
from rqchat.cli.chat.slash.registry import Command, Commands
from rqchat.ui.tables import help_table

__all__ = ["KEYS", "all_commands"]

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


def all_commands() -> Commands[Chat]:
    """Every slash command of the chat."""
    return Commands(command for _, commands in _topics() for command in commands)


def _topics() -> tuple[tuple[str, tuple[Command[Chat], ...]], ...]:
    """The commands by what they are for."""
    return (
        ("the chat", _BASICS),
        ("what goes along", attach_commands.COMMANDS),
        ("answers", turn_commands.COMMANDS),
        ("conversations", conversation_commands.COMMANDS),
        ("how answers are drawn", sampling_commands.COMMANDS),
        ("the model", model_commands.COMMANDS),
        ("the context", context_commands.COMMANDS),
    )


def _help(chat: Chat, argument: str) -> None:
    topics = [
        (topic, [(command.usage, command.summary) for command in commands])
        for topic, commands in _topics()
    ]
    chat.show(help_table([*topics, ("keys", KEYS)]))


def _exit(chat: Chat, argument: str) -> None:
    raise EOFError


_BASICS = (
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
