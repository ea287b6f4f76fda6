"""/help, the keys that it names, and /exit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqchat.cli.slash.registry import Command
from rqchat.ui.tables import help_table

if TYPE_CHECKING:
    from rqchat.cli.chat import Chat

__all__ = ["COMMANDS", "KEYS"]

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
