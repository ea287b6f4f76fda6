"""`rqchat cache`: the documents that were read once, as they lie on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rqchat.cli import app_folders, options
from rqchat.errors import RqchatError, UsageError

if TYPE_CHECKING:
    from rqchat.engine.document_cache.cache_folder import CacheEntry, CacheFolder

__all__ = ["app", "kept_documents"]

app = typer.Typer()
_ARE_DOCUMENTS = "these files hold the documents themselves; rqchat cache clear removes them"


@app.callback(invoke_without_command=True)
def cache(context: typer.Context) -> None:
    """Long documents as the model has read them, kept so that they are read once.

    Whoever has these files has the documents. `rqchat -n` keeps none; `clear` removes all.
    Without a command: a list.
    """
    if context.invoked_subcommand is None:
        show()


@app.command("list")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show what is kept, the latest used first."""
    from rqchat.ui.console import Screen
    from rqchat.ui.document_cache_table import kept_rows, kept_table
    from rqchat.ui.text import tab_lines

    entries = kept_documents().entries()
    screen = Screen()
    if as_json:
        screen.answer(json.dumps([_record(entry) for entry in entries]) + "\n")
    elif not entries:
        screen.note("nothing is kept; documents of 2,048 tokens and more are, once they are read")
    elif screen.out.is_terminal:
        screen.table(kept_table(entries))
        screen.note(_ARE_DOCUMENTS)
    else:
        screen.answer(tab_lines(kept_rows(entries)))


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `list` shows them.")],
) -> None:
    """Remove some of it."""
    store = kept_documents()
    entries = store.entries()
    _remove(store, [entry for name in names for entry in _named(entries, name)])


@app.command("clear")
def clear() -> None:
    """Remove all of it."""
    store = kept_documents()
    _remove(store, store.entries())


@app.command("path")
def path() -> None:
    """Print the folder."""
    from rqchat.ui.console import Screen

    Screen().answer(f"{_folder()}\n")


def kept_documents() -> CacheFolder:
    """What is kept, within the bound that the settings give.

    Raises:
        RqchatError: no home folder is known, or the settings are wrong.
    """
    from rqchat.engine.document_cache.cache_folder import CacheFolder

    return CacheFolder(_folder(), options.GivenOptions({}).settings().cache_bytes)


def _remove(store: CacheFolder, entries: tuple[CacheEntry, ...] | list[CacheEntry]) -> None:
    from rqchat.engine.sizes import format_bytes
    from rqchat.ui.console import Screen

    try:
        store.remove(entries)
    except OSError as error:
        raise RqchatError(f"cannot be removed: {error}") from None
    freed = format_bytes(sum(entry.size_bytes for entry in entries))
    Screen().note(f"removed {len(entries)}, {freed}")


def _named(entries: tuple[CacheEntry, ...], name: str) -> list[CacheEntry]:
    """Those of one name: the same document, as several plans read it."""
    found = [entry for entry in entries if name and entry.name.startswith(name)]
    # Several entries may have one name: the same document, read under several plans
    if len({entry.name for entry in found}) == 1:
        return found
    problem = "there is no" if not found else f"{len(found)} entries begin with"
    raise UsageError(f"{problem} {name!r}; `rqchat cache list` shows the names")


def _folder() -> Path:
    folder = app_folders.kv_cache_folder()
    if folder is None:
        raise RqchatError("no home folder is known; set XDG_CACHE_HOME")
    return folder


def _record(entry: CacheEntry) -> dict[str, object]:
    label = entry.label
    return {
        "name": entry.name,
        "of": list(label.names) if label else [],
        "tokens": entry.tokens,
        "bytes": entry.size_bytes,
        "model": label.model if label else None,
        "weights": label.weights if label else None,
        "kv_bits": label.kv_bits if label else None,
        "used_s": entry.used_s,
    }
