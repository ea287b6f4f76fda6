"""Writes docs/cli.md from the help: `python -m rqchat.cli.manual > docs/cli.md`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import typer

from rqchat.cli.app import app
from rqchat.cli.chat.slash.table import KEYS as CHAT_KEYS
from rqchat.cli.chat.slash.table import all_commands
from rqchat.cli.setting_layers import KEYS

__all__ = ["manual_page"]

_OPENING = """# Command line

Made from the help by `python -m rqchat.cli.manual > docs/cli.md`; a test compares the two.
"""
_EXAMPLE = re.compile(r"(\S+ .*\| )?rqchat\b.*")
_MARKUP = re.compile(r"\[/?(bold|dim)\]")
_EXIT_CODES = (
    ("0", "done, or the reader of a pipe has gone"),
    ("1", "failed"),
    ("2", "wrong usage"),
    ("3", "no model and plan fit this GPU"),
    ("4", "the input is longer than the context"),
    ("130", "interrupted"),
    ("129, 143", "ended by SIGHUP or SIGTERM; what had come of an answer is kept and marked"),
)
_VARIABLES = (
    ("`RQCHAT_MODEL`", "as `--model`"),
    ("`RQCHAT_SERVER`", "as `--server`"),
    ("`RQCHAT_API_KEY`", "the key of that server; OPENAI_API_KEY goes to api.openai.com alone"),
    ("`RQCHAT_VRAM`", "as `vram` in the settings file"),
    ("`RQCHAT_OFFLINE`", "1, true, yes or on: as `--offline`; so does `HF_HUB_OFFLINE`"),
    ("`RQCHAT_THEME`", "as `theme` in the settings file"),
    (
        "`COLORFGBG`, `NO_COLOR`, `COLORTERM`, `TERM`, `TERM_PROGRAM`, `KITTY_WINDOW_ID`",
        "what the terminal is: light or dark, its colours, and how it takes pictures",
    ),
    ("`RQCHAT_CONFIG`", "the settings file, in place of the platform's"),
)
_SETTINGS = """
`rqchat config path` prints where it is. Defaults, this file, the environment, a preset and flags
override each other in this order; `rqchat config show` says where each value comes from. A preset
is a table of the same keys, asked for with `--preset exact`:

```toml
model = "google/gemma-4-31B-it"
kv-bits = 4

[presets.exact]
temperature = 0
system = "Answer in one sentence."
```
"""
_COMPLETION = """## Shell completion

```sh
rqchat --install-completion
```

installs it for the shell that it is called from: bash, zsh, fish or PowerShell.
`rqchat --show-completion` prints the script instead.
"""


def manual_page() -> str:
    """The whole text of docs/cli.md."""
    root: Any = typer.main.get_command(app)
    parts = [_OPENING, *_command("rqchat", root), "## In the chat\n"]
    slash = [(f"`{c.usage}`", c.summary) for c in all_commands()]
    parts += [_table("command", "what it does", slash)]
    parts += [_table("key", "what it does", [(f"`{keys}`", does) for keys, does in CHAT_KEYS])]
    parts += ["## The settings file", _SETTINGS]
    keys = [(f"`{key.name}`", f"{key.meaning} ({key.kind.__name__})") for key in KEYS]
    parts += [_table("key", "what it sets", keys)]
    parts += ["## Environment\n", _table("variable", "what it sets", list(_VARIABLES))]
    parts += [_COMPLETION]
    parts += ["## Exit codes\n", _table("code", "meaning", list(_EXIT_CODES))]
    return "\n".join(parts)


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## {name}\n"
    yield from _prose(command.help or "")
    rows = [row for row in map(_row, command.params) if row]
    if rows:
        yield _table("option", "what it does", rows)
    for below, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _command(f"{name} {below}", inner)


def _prose(text: str) -> Iterator[str]:
    """The paragraphs of a help text, calls of the program as code."""
    calls: list[str] = []
    for paragraph in _MARKUP.sub("", text).split("\n\n"):
        lines = [line.strip() for line in paragraph.strip().splitlines()]
        if lines and all(_EXAMPLE.fullmatch(line) for line in lines):
            calls += [re.sub(r" {3,}", "  # ", line) for line in lines]
            continue
        yield from _code(calls)
        calls = []
        if lines:
            yield " ".join(lines) + "\n"
    yield from _code(calls)


def _code(calls: list[str]) -> Iterator[str]:
    if calls:
        yield "\n".join(["```sh", *calls, "```\n"])


def _row(parameter: Any) -> tuple[str, str] | None:
    if getattr(parameter, "hidden", False) or parameter.name in _TYPERS_OWN:
        return None
    shown = ", ".join(parameter.opts) if parameter.param_type_name == "option" else ""
    metavar = parameter.metavar or ""
    return f"`{f'{shown} {metavar}'.strip()}`", parameter.help or ""


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {left} | {right} |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(meaning)} |" for name, meaning in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


_TYPERS_OWN = ("help", "install_completion", "show_completion")

if __name__ == "__main__":
    sys.stdout.write(manual_page())
