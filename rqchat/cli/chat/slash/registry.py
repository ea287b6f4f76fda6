"""What a slash command is. A family is a module with a tuple `COMMANDS`, named in `table`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rqchat.cli.chat.chat import Chat

__all__ = ["PATHS", "Command", "Suggest", "words"]

Suggest = Callable[[str], Iterable[tuple[str, str]]]
"""From what is typed after a command to what may stand there: pairs of text and meaning."""


def words(*choices: str) -> Suggest:
    """Suggests the same `choices` every time."""
    return lambda typed: ((choice, "") for choice in choices)


PATHS = None  # stands for the files of the disk, which the line editor knows how to suggest
_NOTHING = words()


@dataclass(frozen=True, slots=True)
class Command:
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
    run: Callable[[Chat, str], None]
    suggest: Suggest | None = _NOTHING
    aliases: tuple[str, ...] = ()
    at_once: bool = False

    @property
    def usage(self) -> str:
        """How it is typed."""
        return f"{self.name} {self.arguments}".rstrip()
