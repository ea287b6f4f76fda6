"""`rqchat models`: the Gemma 4 models, which of them fit here, and which are on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rqchat.cli.commands.plan_command import Vram
from rqchat.errors import UsageError

if TYPE_CHECKING:
    from rqchat.engine.model_files.installed import InstalledModel

__all__ = ["app"]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """The Gemma 4 models that fit here, and those that are here. Without a command: a list."""
    if context.invoked_subcommand is None:
        show()


@app.command("list")
def show(
    vram: Vram = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show each model, its plan here, and what of it is on this machine."""
    from rqchat.cli.commands.plan_command import size_of, target_of
    from rqchat.engine.model_files.installed import installed_models
    from rqchat.engine.planning.automatic import fitting_models
    from rqchat.engine.planning.known_models import known_models
    from rqchat.engine.settings import Settings
    from rqchat.ui.console import Screen
    from rqchat.ui.models_table import ModelRow, model_rows, models_table
    from rqchat.ui.text import tab_lines

    settings = Settings(vram_bytes=size_of(vram))
    device = target_of(settings)
    plans = {one.model.name: one.plan.chosen for one in fitting_models(device, settings)}
    here = installed_models()
    rows = [
        ModelRow(model.short_name, model.name, plans.get(model.name), _size(here, model.name))
        for model in known_models()
    ]
    known = {row.name for row in rows}
    rows += [
        ModelRow("", each.name, None, each.size_bytes) for each in here if each.model not in known
    ]
    screen = Screen()
    if as_json:
        screen.answer(json.dumps([row.as_json() for row in rows]) + "\n")
    elif screen.out.is_terminal:
        screen.table(models_table(rows, device.name))
    else:
        screen.answer(tab_lines(model_rows(rows)))


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `list` shows them.")],
) -> None:
    """Remove what is on this machine of some models."""
    from rqchat.engine.model_files.installed import installed_models, remove_installed
    from rqchat.engine.planning.known_models import full_name
    from rqchat.engine.sizes import format_bytes
    from rqchat.ui.console import Screen

    here = installed_models()
    meant: list[Any] = []
    for name in names:
        found = [each for each in here if full_name(name) in (each.name, each.model)]
        if not found:
            listed = ", ".join(each.name for each in here) or "none"
            raise UsageError(f"{name} is not on this machine; there are: {listed}")
        meant += found
    for each in meant:
        remove_installed(each)
        Screen().note(f"removed {each.name}: {format_bytes(each.size_bytes)}")


def _size(here: list[InstalledModel], name: str) -> int:
    return sum(each.size_bytes for each in here if each.model == name)
