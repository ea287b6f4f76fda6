"""`rqchat sessions`: saved conversations listed, shown, searched, named, exported and removed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rqchat.cli import app_folders
from rqchat.errors import RqchatError, StoreFullError, UsageError

if TYPE_CHECKING:
    from rqchat.engine.conversations.database import Database
    from rqchat.engine.conversations.records import SessionRecord, TurnRecord
    from rqchat.ui.console import Screen

__all__ = ["app"]

_LISTED = 20
_TRACES = (
    "words of what was removed stay in the index of the search until the disk has room and"
    " something else is removed"
)
_STUCK = (
    "{} cannot be made smaller: the disk is full, and removing takes some room first, about what is"
    " removed; delete a little of something else there, and try again"
)
_AGE_S = {"h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}

app = typer.Typer()

Reference = Annotated[
    str, typer.Argument(metavar="ID", help="Its id or name, or the beginning of one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only say what would be removed."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]


@app.callback(invoke_without_command=True)
def sessions(context: typer.Context) -> None:
    """Saved conversations. Without a command: the latest ones.

    rqchat sessions search "north gate"

    rqchat sessions export k3f9q2ab > gate.md

    rqchat sessions prune --older-than 90d
    """
    if context.invoked_subcommand is None:
        list_(_LISTED)


@app.command("list")
def list_(
    limit: Limit = _LISTED,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All of them.")] = False,
    as_json: AsJson = False,
) -> None:
    """List conversations, the latest first."""
    from rqchat.cli.store_access import read_store
    from rqchat.engine.conversations.export import session_record
    from rqchat.engine.conversations.sessions import count_sessions, list_sessions

    most = None if everything else limit
    found, count = read_store(lambda store: (list_sessions(store, most), count_sessions(store)))
    screen = _screen()
    if as_json:
        _print_json(screen, [session_record(session) for session in found])
    elif not found:
        screen.note("no conversations yet")
    else:
        _print_sessions(screen, found)
    if len(found) < count:
        screen.note(f"{len(found):,} of {count:,}; --all lists the rest")


@app.command("show")
def show(reference: Reference, as_json: AsJson = False) -> None:
    """Show a conversation and what each answer was made with; piped, it is Markdown."""
    from rqchat.cli.store_access import read_store
    from rqchat.engine.conversations.export import as_markdown, session_record, turn_record
    from rqchat.engine.conversations.sessions import find_session, read_turns
    from rqchat.ui.saved_conversations import conversation_view

    def read(store: Database) -> tuple[SessionRecord, tuple[TurnRecord, ...]]:
        session = find_session(store, reference)
        return session, read_turns(store, session.id)

    session, turns = read_store(read)
    screen = _screen()
    if as_json:
        _print_json(screen, session_record(session) | {"turns": [turn_record(t) for t in turns]})
    elif screen.out.is_terminal:
        screen.table(conversation_view(session, turns))
    else:
        screen.answer(as_markdown(session, turns))


@app.command("search")
def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS...", help="All of them are in it.")],
    limit: Limit = _LISTED,
    as_json: AsJson = False,
) -> None:
    """Find conversations by words in them, in names of files, or in their own names.

    A word finds all that begin with it; '"quoted words"' are found as they stand.
    """
    from rqchat.cli.store_access import read_store
    from rqchat.engine.conversations.export import finding_record
    from rqchat.engine.conversations.search import search_sessions
    from rqchat.ui.saved_conversations import findings_list
    from rqchat.ui.text import tab_lines

    found = read_store(lambda store: search_sessions(store, " ".join(words), limit))
    screen = _screen()
    if as_json:
        _print_json(screen, [finding_record(finding) for finding in found])
    elif not found:
        screen.note("found nothing")
        raise typer.Exit(1)
    elif screen.out.is_terminal:
        screen.table(findings_list(found))
    else:
        rows = [(f.session.id, str(f.number or ""), f.session.label, f.excerpt) for f in found]
        screen.answer(tab_lines(rows))


@app.command("rename")
def rename(
    reference: Reference,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Empty takes the name away.")],
) -> None:
    """Give a conversation a name, by which it can be resumed."""
    from rqchat.engine.conversations.sessions import find_session, rename_session

    with _store() as database:
        session = find_session(database, reference)
        rename_session(database, session.id, name or None)
    _screen().note(f"{session.id} is called {name!r} now" if name else f"{session.id} has no name")


@app.command("rm")
def remove(
    references: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids or names, or beginnings of them.")
    ],
) -> None:
    """Remove conversations for good, with the documents and pictures that only they had."""
    from rqchat.engine.conversations.sessions import find_session

    with _store() as database:
        found = [find_session(database, reference) for reference in references]
    _remove_for_good(_screen(), [session.id for session in found])
    _say_removed(_screen(), found, "removed")


@app.command("export")
def export(
    reference: Reference,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="F", help="md or json; else what -o ends in, else md."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A new file.")
    ] = None,
) -> None:
    """Write a conversation as Markdown, or as JSON with all that was attached and all receipts."""
    from rqchat.cli.exporting import export_text, write_new
    from rqchat.cli.store_access import read_store
    from rqchat.engine.conversations.sessions import find_session

    form = form or ("json" if output and output.suffix == ".json" else "md")
    text = read_store(lambda store: export_text(store, find_session(store, reference), form))
    if output is None:
        _screen().answer(text)
    else:
        write_new(output, text)


@app.command("repair")
def repair() -> None:
    """Save what can be read of a damaged store in a new one; the damaged file is kept beside it."""
    from rqchat.engine.conversations.rescue import repair as repair_store

    path = app_folders.store_file()
    repaired = repair_store(path)
    screen = _screen()
    what = f"conversations: {repaired.conversations:,}, turns: {repaired.turns:,}"
    if repaired.is_whole:
        screen.note(f"{path} is in order; {what}")
    else:
        screen.note(f"saved what can be read; {what}; the damaged file is {repaired.kept_as}")


@app.command("prune")
def prune(
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Last used so long ago: 12h, 90d, 8w, 1y.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="All but the N latest ones.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Remove old conversations for good; those with a name stay.

    With both options, what both mean is removed.
    """
    from rqchat.engine.conversations.sessions import old_sessions

    if older_than is None and keep is None:
        raise UsageError("which ones? for example: rqchat sessions prune --older-than 90d")
    older_than_s = None if older_than is None else _age_s(older_than)
    screen = _screen()
    with _store() as database:
        found = old_sessions(database, older_than_s=older_than_s, keep=keep)
    if dry_run or not found:
        _say_removed(screen, found, "would be removed" if dry_run else "removed")
    elif yes or _agreed(screen, found):
        _remove_for_good(screen, [session.id for session in found])
        _say_removed(screen, found, "removed")


def _remove_for_good(screen: Screen, ids: Sequence[str]) -> None:
    """Remove sessions. SQLite has to write before it can remove, so that a crash harms nothing.

    Where the disk has no room for that, they go a few at a time, and then what is kept of documents
    gives way, the longest unused first: it can be had again by reading them again.

    Raises:
        StoreError: the store cannot be written, and nothing more can give way.
    """
    if not _removed(screen, ids):
        screen.note(_TRACES)


def _removed(screen: Screen, ids: Sequence[str]) -> bool:
    """Whether no trace stays."""
    from rqchat.engine.conversations.sessions import remove_sessions

    with _store() as database:
        try:
            return remove_sessions(database, ids)
        except StoreFullError:
            path = database.path
    # Fewer at a time need less room for the journal that SQLite writes first
    if len(ids) > 1:
        first = len(ids) // 2
        _removed(screen, ids[:first])
        return _removed(screen, ids[first:])
    _give_way(screen, path)
    return _removed(screen, ids)


def _give_way(screen: Screen, path: Path) -> None:
    """Drop the longest unused entry on the disk of `path`.

    Raises:
        StoreFullError: there is none.
    """
    from rqchat.cli.commands.cache_command import kept_documents
    from rqchat.ui.document_cache_table import kept_rows

    with suppress(RqchatError, OSError):
        kept = kept_documents()
        disk = path.stat().st_dev
        for entry in reversed(kept.entries()):
            if entry.path.stat().st_dev == disk:  # the cache may lie on another one
                _, of, _, size, *_ = next(kept_rows([entry]))
                kept.remove([entry])
                screen.note(f"the disk is full: dropped what was kept of {of}, {size}")
                return
    raise StoreFullError(_STUCK.format(path))


def _store() -> Database:
    from rqchat.engine.conversations.database import Database

    return Database.open(app_folders.store_file())


def _screen() -> Screen:
    from rqchat.ui.console import Screen

    return Screen()


def _print_json(screen: Screen, value: object) -> None:
    screen.answer(json.dumps(value, indent=2) + "\n")


def _print_sessions(screen: Screen, found: Sequence[SessionRecord]) -> None:
    from rqchat.ui.saved_conversations import format_moment, sessions_table
    from rqchat.ui.text import tab_lines

    if screen.out.is_terminal:
        screen.table(sessions_table(found))
    else:
        rows = [(s.id, format_moment(s.updated_s), str(s.turns), s.model, s.label) for s in found]
        screen.answer(tab_lines(rows))


def _say_removed(screen: Screen, found: Sequence[SessionRecord], what: str) -> None:
    for session in found:
        screen.note(f"{what}: {session.id} {session.label}")
    if not found:
        screen.note(f"nothing {what}")


def _agreed(screen: Screen, found: Sequence[SessionRecord]) -> bool:
    from rqchat.ui.console import is_terminal

    what = f"{len(found)} conversation{'' if len(found) == 1 else 's'}"
    if not (is_terminal("stdin") and is_terminal("stderr")):
        raise UsageError(f"{what} would be removed for good; agree with --yes")
    return typer.confirm(f"remove {what} for good?", err=True)


def _age_s(text: str) -> float:
    match = re.fullmatch(r"(\d+)\s*([hdwy])", text.strip().lower())
    if not match:
        raise UsageError(f"--older-than is {text!r}; write an age such as 12h, 90d, 8w or 1y")
    return int(match[1]) * _AGE_S[match[2]]
