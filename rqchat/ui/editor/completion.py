"""Tab completion of slash commands and of what each of them takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from rqchat.ui.text import safe_line

__all__ = ["Completable", "SlashCompleter"]


class Completable(Protocol):
    """What Tab has to know of a slash command."""

    @property
    def summary(self) -> str:
        """What it does."""

    @property
    def arguments(self) -> str:
        """How what it takes is written; empty where it takes nothing."""

    @property
    def suggest(self) -> Callable[[str], Iterable[tuple[str, str]]] | None:
        """From what is typed after it to texts and their meanings; None offers files."""


class SlashCompleter(Completer):
    """Completes `/comm`, and after a command whatever that command takes.

    Args:
        commands: the commands by name, with slash.
    """

    def __init__(self, commands: Mapping[str, Completable]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """The completions at the cursor; none outside a slash command."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, blank, typed = text.partition(" ")
        command = self._commands.get(name)
        if not blank:
            names = ((_to_type(n, c), c.summary) for n, c in self._commands.items())
            yield from _matching(names, name)
        elif command is not None and command.suggest is None:
            path = Document(typed, len(typed))
            for found in self._paths.get_completions(path, complete_event):
                slash = "/" if found.display_text.endswith("/") else ""
                yield Completion(found.text + slash, found.start_position, found.display)
        elif command is not None and command.suggest is not None:
            yield from _matching(command.suggest(typed), typed)


def _to_type(name: str, command: Completable) -> str:
    return f"{name} " if command.arguments else name


def _matching(choices: Iterable[tuple[str, str]], typed: str) -> Iterable[Completion]:
    for text, meaning in choices:
        if text.startswith(typed):
            yield Completion(text, -len(typed), display_meta=safe_line(meaning))
