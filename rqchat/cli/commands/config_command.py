"""`rqchat config`: what is set, where it comes from, and where to change it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rqchat.cli import app_folders
from rqchat.cli.setting_layers import KEYS, format_value, layered, read_file
from rqchat.errors import RqchatError, UsageError

__all__ = ["app", "template"]

app = typer.Typer()
_EDITORS = ("sensible-editor", "nano", "vi")


@app.callback(invoke_without_command=True)
def config(context: typer.Context) -> None:
    """Show or change the settings. Without a command: show them."""
    if context.invoked_subcommand is None:
        show()


@app.command("show")
def show(
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="As this preset would have it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show every setting, its value and where that comes from."""
    from rqchat.ui.console import Screen
    from rqchat.ui.tables import settings_table

    found = layered({}, preset)
    screen = Screen()
    if as_json:
        record = {key.name: asdict(found[key.field]) for key in KEYS}
        screen.answer(json.dumps(record) + "\n")
        return
    shown = [(key, found[key.field]) for key in KEYS]
    screen.table(settings_table((k.name, format_value(k, s.value), s.source) for k, s in shown))


@app.command("path")
def path() -> None:
    """Print where the settings file is, or would be."""
    from rqchat.ui.console import Screen

    Screen().answer(f"{_file()}\n")


@app.command("edit")
def edit() -> None:
    """Open the settings file in your editor; a new one lists all keys.

    The editor is what VISUAL or EDITOR name. What was saved is checked.
    """
    from rqchat.cli.exporting import write_new
    from rqchat.ui.console import Screen

    file = _file()
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_new(file, template())
        code = subprocess.run([*_editor(), str(file)]).returncode
    except OSError as error:
        raise RqchatError(f"{file} cannot be edited: {error.strerror or error}") from None
    if code:
        raise RqchatError(f"the editor ended with exit code {code}")
    read_file(file)  # raises where it cannot be used, before the next command does
    Screen().note(f"{file} is in order")


def template() -> str:
    """A settings file in which every key stands as a comment, with an example and its meaning."""
    width = max(len(key.name) for key in KEYS)
    lines = ["# Settings of rqchat. Environment variables, presets and flags override them.", ""]
    lines += [f"# {key.name:<{width}} = {json.dumps(key.example)}  # {key.meaning}" for key in KEYS]
    lines += ["", "# A preset is asked for with --preset NAME and holds any of the keys:", ""]
    lines += ["# [presets.exact]", "# temperature = 0", '# system = "Answer in one sentence."', ""]
    return "\n".join(lines)


def _file() -> Path:
    file = app_folders.config_file()
    if file is None:
        raise RqchatError("no home folder is known; name a file in RQCHAT_CONFIG")
    return file


def _editor() -> list[str]:
    from rqchat.cli.chat.slash.external_editor import own_editor
    from rqchat.ui.console import is_terminal

    chosen = own_editor()
    if chosen:
        return chosen
    # An editor that nobody has named needs a terminal; one that is named may have windows.
    for program in _EDITORS if is_terminal("stdin") else ():
        if shutil.which(program):
            return [program]
    raise UsageError("no editor is known; name one in EDITOR, or open the file of 'config path'")
