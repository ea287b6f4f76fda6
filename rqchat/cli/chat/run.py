"""Runs the chat of `rqchat` without a command, from its first line to its last.

Typing starts at once while the model loads behind the prompt, and goes on while it answers.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from rqchat import __version__
from rqchat.cli import app_folders
from rqchat.cli.chat.chat import Chat
from rqchat.cli.chat.slash.table import all_commands
from rqchat.cli.download_consent import with_consent
from rqchat.cli.inputs import read_stdin
from rqchat.cli.open_session import leaving_on_signals
from rqchat.cli.store_access import with_saved_model
from rqchat.engine.conversations.load import SavedConversation
from rqchat.engine.inputs.documents import Document
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.inputs.references import ReferenceReader
from rqchat.engine.settings import ChatSettings, SamplingSettings, Settings
from rqchat.errors import UsageError
from rqchat.ui.console import Screen, is_terminal
from rqchat.ui.editor.typeahead import keys_kept
from rqchat.ui.input_events import show_input_event
from rqchat.ui.looks.start_header import HELP_HINT
from rqchat.ui.looks.theme import Theme, theme_of
from rqchat.ui.text import format_count

if TYPE_CHECKING:
    from rqchat.ui.editor.line_editor import LineEditor

__all__ = ["run_chat"]

_SWITCH_S = 0.0005  # a key waits so long for the thread that loads or answers; usual are 5 ms
_PIPED = "standard input"


def run_chat(
    settings: Settings,
    chat_settings: ChatSettings,
    sampling: SamplingSettings,
    saved: SavedConversation | None = None,
) -> None:
    """Chat until the user leaves. A document or picture piped in is attached to the first message.

    With `saved` it goes on where that conversation ended.

    Raises:
        UsageError: standard output or standard error is no terminal.
        RqchatError: the model cannot be opened, or what is piped in cannot be used.
    """
    screen = Screen(theme=theme_of(chat_settings.theme))
    if not (is_terminal("stdout") and is_terminal("stderr")):
        raise UsageError('a chat needs a terminal; for pipes and files: rqchat ask "QUESTION"')
    settings = with_consent(with_saved_model(settings, saved), screen)
    with keys_kept() as typed:
        if typed and not typed.endswith("\r"):
            screen.note("")  # the terminal has shown it, and no line end after it
        _greet(screen, saved)
        piped = _piped(screen)
        chat = Chat(
            screen,
            settings,
            all_commands(),
            chat_settings.system,
            saved,
            sampling=sampling,
            thinking=chat_settings.think,
            piped=piped,
            pictures=chat_settings.pictures,
        )
        editor = _open_editor(chat, screen.theme, from_terminal=bool(piped))
        sys.setswitchinterval(_SWITCH_S)
        chat.editor = editor
        editor.vi = chat_settings.keys == "vi"
        editor.typed_before(typed)
        if saved is not None:
            chat.show_saved(saved)
        chat.model.load()  # not before, or its imports would hold up those of the prompt
        with leaving_on_signals():
            try:
                chat.run(editor)
            finally:
                chat.close()


def _greet(screen: Screen, saved: SavedConversation | None) -> None:
    """Something to see at once; where it can be drawn over, the header comes in its place."""
    if screen.can_rewrite and saved is None:
        screen.status(f"rqchat {__version__}")
    else:
        screen.note(f"rqchat {__version__} · {HELP_HINT}")


def _piped(screen: Screen) -> tuple[Document | Picture, ...]:
    """What is on standard input, which may take its time to come."""
    if is_terminal("stdin"):
        return ()
    screen.status(f"reading {_PIPED}")
    reader = ReferenceReader(partial(show_input_event, screen))
    items = reader.decode(read_stdin(screen), _PIPED)
    for item in items:
        if isinstance(item, Document):
            screen.note(f"read {_PIPED}: {format_count(len(item.text))} characters")
    return items


def _open_editor(chat: Chat, theme: Theme, *, from_terminal: bool) -> LineEditor:
    """The line editor; `from_terminal` reads keys from the terminal, as standard input is piped."""
    from rqchat.ui.editor.line_editor import LineEditor

    return LineEditor(
        chat,
        history_path=None if chat.model.settings.no_log else app_folders.history_file(),
        commands=chat.commands.completion,
        theme=theme,
        from_terminal=from_terminal,
    )
