"""The page of `rqchat --help`: commands first, as those are what a stranger looks for."""

from __future__ import annotations

import copy
from typing import Any

from typer.core import TyperCommand, TyperGroup

__all__ = ["CommandsFirst"]

_BETWEEN = "Options of the chat. Each command has its own: rqchat COMMAND --help"


class CommandsFirst(TyperGroup):
    """A group whose commands stand above its options; Typer has them below."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page: Typer's own two parts, each without the other."""
        from typer.rich_utils import rich_format_help

        commands = copy.copy(self)
        commands.get_params = lambda ctx: []  # type: ignore[method-assign]
        options = TyperCommand(self.name, params=self.get_params(ctx))
        options.get_usage = lambda ctx: _BETWEEN  # type: ignore[method-assign]
        for part in (commands, options):
            rich_format_help(obj=part, ctx=ctx, markup_mode="rich")
