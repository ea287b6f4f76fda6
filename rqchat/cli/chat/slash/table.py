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
    return Commands(
        (
            *_BASICS,
            *attach_commands.COMMANDS,
            *turn_commands.COMMANDS,
            *conversation_commands.COMMANDS,
            *sampling_commands.COMMANDS,
            *model_commands.COMMANDS,
            *context_commands.COMMANDS,
        )
    )


def _help(chat: Chat, argument: str) -> None:
    rows = [(command.usage, command.summary) for command in chat.commands]
    chat.show(help_table([*rows, ("", ""), *KEYS]))


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
