"""/clear, /system, /sessions, /load, /save, /fork and /export: the conversation as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from rqchat.cli import app_folders
from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.registry import PATHS, Command
from rqchat.cli.exporting import export_text, write_new
from rqchat.cli.store_access import load_saved, open_store, read_store
from rqchat.engine.conversations.search import search_sessions
from rqchat.engine.conversations.sessions import find_session, list_sessions, rename_session
from rqchat.engine.inputs.reference_paths import as_path
from rqchat.errors import RqchatError, UsageError
from rqchat.ui.saved_conversations import findings_list, sessions_table

__all__ = ["COMMANDS"]

_LISTED = 12
_SUGGESTED = 50


def _clear(chat: Chat, argument: str) -> None:
    chat.turns.change("the clearing", ())
    chat.attachments.clear()
    chat.last_done = None
    chat.say("cleared; the next message starts anew, and /undo brings back what was")


def _system(chat: Chat, argument: str) -> None:
    if not argument:
        chat.say(chat.model.system or "no system prompt; /system TEXT sets one")
        return
    removed = argument in ("off", "none")
    chat.instruct(None if removed else argument)
    chat.say("system prompt removed" if removed else "system prompt set")


def _sessions(chat: Chat, argument: str) -> None:
    warn = partial(chat.say, style="warning")
    if argument:
        findings = read_store(lambda store: search_sessions(store, argument, _LISTED), warn)
        if findings:
            chat.show(findings_list(findings))
    else:
        findings = ()
        chat.show(sessions_table(read_store(lambda store: list_sessions(store, _LISTED), warn)))
    if argument and not findings:
        chat.say("found nothing")
    else:
        chat.say("/load ID goes on with one")


def _load(chat: Chat, argument: str) -> None:
    if not argument:
        raise UsageError("which one? /sessions lists them, and Tab does")
    saved = load_saved(argument, partial(chat.say, style="warning"))
    session = chat.session()
    # Before the conversation changes, which the recorder would take for a new one
    chat.recorder.adopt(saved)
    before, session.system = session.system, saved.record.system
    chat.turns.change("the loading", saved.messages, undo=lambda: chat.instruct(before))
    chat.show_saved(saved)


def _save(chat: Chat, argument: str) -> None:
    session_id = _saved_id(chat)
    _rename(session_id, argument)
    chat.say(f"saved; rqchat --resume {_quoted(argument) or session_id} goes on from here")


def _fork(chat: Chat, argument: str) -> None:
    before = _saved_id(chat)
    after = chat.recorder.fork()
    if after is None:
        raise RqchatError("the copy could not be saved; the conversation goes on as it was")
    _rename(after, argument)
    chat.say(f"from here on this is {argument or after}; {before} stays as it is")


def _export(chat: Chat, argument: str) -> None:
    session_id = _saved_id(chat)
    path = as_path(argument) if argument else Path(f"{session_id}.md")
    form = "json" if path.suffix == ".json" else "md"
    text = read_store(
        lambda store: export_text(store, find_session(store, session_id), form),
        partial(chat.say, style="warning"),
    )
    write_new(path, text)
    chat.say(f"written to {path}")


def _rename(session_id: str, name: str) -> None:
    """Give a saved conversation a name, unless that is empty."""
    if name:
        with open_store() as database:
            rename_session(database, session_id, name)


def _saved_id(chat: Chat) -> str:
    """Id of the present conversation, which is saved now if it was not."""
    if not chat.session().messages:
        raise UsageError("there is no answer yet, and so nothing to save")
    session_id = chat.recorder.session_id or chat.recorder.keep_in(app_folders.store_file())
    if session_id is None:
        raise RqchatError("the conversation could not be saved")
    return session_id


def _suggest(typed: str) -> Iterable[tuple[str, str]]:
    with suppress(RqchatError), open_store() as database:
        return [
            (session.name or session.id, session.title)
            for session in list_sessions(database, _SUGGESTED)
        ]
    return ()


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


COMMANDS = (
    Command(
        "/clear",
        "",
        "begin anew with nothing attached, as /new does",
        _clear,
        aliases=("/new", "/reset"),
    ),
    Command(
        "/system", "[TEXT|off]", "show, set or remove the instructions", _system, aliases=("/sys",)
    ),
    Command(
        "/sessions",
        "[WORDS]",
        "saved conversations, or a search",
        _sessions,
        aliases=("/history", "/list", "/ls"),
        at_once=True,
    ),
    Command("/load", "ID|NAME", "go on with a saved conversation", _load, _suggest),
    Command("/save", "[NAME]", "give this conversation a name", _save, aliases=("/rename",)),
    Command("/fork", "[NAME]", "go on in a copy; the original stays", _fork),
    Command("/export", "[FILE]", "write this conversation as .md or .json", _export, PATHS),
)
