"""Slash commands: what one is, and which command a typed line means.

Nothing here knows the chat: `C` is whatever the commands act on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rqchat.cli.hints import did_you_mean
from rqchat.engine.conversations.database import plain
from rqchat.errors import UsageError

__all__ = ["PATHS", "Command", "Commands", "Suggest", "words"]

C = TypeVar("C")
Suggest = Callable[[str], Iterable[tuple[str, str]]]
"""From what is typed after a command to what may stand there: pairs of text and meaning."""


def words(*choices: str) -> Suggest:
    """Suggests the same `choices` every time."""
    return lambda typed: ((choice, "") for choice in choices)


PATHS = None  # stands for the files of the disk, which the line editor knows how to suggest
_NOTHING = words()


@dataclass(frozen=True, slots=True)
class Command(Generic[C]):
    """One slash command.

    Attributes:
        name: with its slash.
        arguments: how they are written in `/help`, such as `[TEXT|off]`.
        summary: what it does, for `/help` and the completion menu.
        run: does it, given the chat and the rest of the line; raises RqchatError where it cannot,
            and EOFError to leave the chat.
        suggest: what Tab offers after it; `PATHS` offers files.
        aliases: other names; one without a slash counts only where it is all of the line.
        at_once: whether it runs while the model loads or answers; others wait.
    """

    name: str
    arguments: str
    summary: str
    run: Callable[[C, str], None]
    suggest: Suggest | None = _NOTHING
    aliases: tuple[str, ...] = ()
    at_once: bool = False

    @property
    def usage(self) -> str:
        """How it is typed."""
        return f"{self.name} {self.arguments}".rstrip()


class Commands(Generic[C]):
    """The slash commands of one chat, in the order of `/help`.

    A line is a command when its first word is `/` and a name without a further slash, and no such
    file exists: `/home/me/cat.png` and `/tmp` are not mistaken for commands.
    """

    def __init__(self, commands: Iterable[Command[C]]) -> None:
        self._commands = tuple(commands)

    def __iter__(self) -> Iterator[Command[C]]:
        return iter(self._commands)

    @property
    def completion(self) -> dict[str, Command[C]]:
        """Each command by its name, for the line editor; aliases are not offered."""
        return {command.name: command for command in self._commands}

    def lookup(self, word: str) -> Command[C] | None:
        """The command with this name or alias."""
        for command in self._commands:
            if word in (command.name, *command.aliases):
                return command
        return None

    def is_command(self, line: str) -> bool:
        """Whether `line` is meant as a slash command, known or not."""
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        if not word.startswith("/"):
            return self.lookup(line.strip()) is not None  # exit and quit, and nothing beside them
        if "/" in word[1:]:
            return False
        return word == "/" or self.lookup(word) is not None or not Path(word).exists()

    def runs_at_once(self, line: str) -> bool:
        """Whether `line` is a command that need not wait for the model; unknown ones need not."""
        if not self.is_command(line):
            return False
        command = self.lookup(line.split(maxsplit=1)[0])
        return command is None or command.at_once

    def run(self, chat: C, line: str) -> None:
        """Do what `line` says.

        Raises:
            UsageError: there is no such command, or its argument makes no sense.
            RqchatError: the command cannot do it.
            EOFError: the command leaves the chat.
        """
        word, _, rest = line.strip().partition(" ")
        command = self.lookup(word)
        if command is None:
            hint = did_you_mean(word, self.completion) or "; /help lists them"
            raise UsageError(f"there is no command {word}{hint}")
        argument = rest.strip()
        # Names of files may hold bytes that are no text; nothing else does
        command.run(chat, argument if command.suggest is PATHS else plain(argument))
