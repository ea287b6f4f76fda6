"""Conversations kept and gone on with: what `rqchat` and `rqchat ask` share of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rqchat.cli import app_folders
from rqchat.engine.conversations.database import Database
from rqchat.engine.conversations.load import SavedConversation, load_conversation
from rqchat.engine.conversations.recorder import Recorder
from rqchat.engine.conversations.records import Origin
from rqchat.engine.conversations.rescue import ask_store
from rqchat.engine.conversations.sessions import find_session, latest_session
from rqchat.engine.settings import Settings
from rqchat.errors import InputError, StoreError, UsageError

if TYPE_CHECKING:
    from rqchat.ui.console import Screen

T = TypeVar("T")

__all__ = [
    "load_saved",
    "open_recorder",
    "open_store",
    "read_store",
    "resume_hint",
    "resumed_conversation",
    "with_saved_model",
]


def open_recorder(settings: Settings, origin: Origin, screen: Screen) -> Recorder:
    """Records into the user's store, or nothing where that is not wanted or there is no place."""
    path: Path | None = None
    if not settings.no_log:
        try:
            path = app_folders.store_file()
        except StoreError as error:
            screen.warning(f"this conversation is not being saved: {error}")
    return Recorder(path, origin, screen.warning)


def resumed_conversation(*, latest: bool, reference: str | None) -> SavedConversation | None:
    """What `--continue` and `--resume` ask for.

    Raises:
        UsageError: both are given.
        InputError: there is no such conversation, or several.
        StoreError: the store cannot be read.
    """
    if latest and reference is not None:
        raise UsageError("--continue takes the latest conversation, --resume the one you name")
    if not latest and reference is None:
        return None
    return load_saved(reference)


def open_store() -> Database:
    """The user's store.

    Raises:
        StoreError: it cannot be used.
    """
    return Database.open(app_folders.store_file())


def read_store(question: Callable[[Database], T], warn: Callable[[str], None] | None = None) -> T:
    """What `question` finds in the user's store; of a damaged one in what can be read of it.

    `warn` gets a sentence then; without one it goes to standard error.

    Raises:
        StoreError: it cannot be used.
    """

    def say(text: str) -> None:
        from rqchat.ui.console import Screen

        Screen().warning(text)

    return ask_store(app_folders.store_file(), question, warn or say)


def load_saved(
    reference: str | None, warn: Callable[[str], None] | None = None
) -> SavedConversation:
    """The conversation that `reference` means, the latest where it is None; `warn` as above.

    Raises:
        InputError: there is no such conversation, or several.
        StoreError: the store cannot be read.
    """

    def load(database: Database) -> SavedConversation:
        record = (
            latest_session(database) if reference is None else find_session(database, reference)
        )
        if record is None:
            raise InputError("there is no conversation to go on with yet")
        return load_conversation(database, record)

    return read_store(load, warn)


def with_saved_model(settings: Settings, saved: SavedConversation | None) -> Settings:
    """`settings` with the model that the conversation had, where none was asked for."""
    # `auto` is what stands there as long as nobody names a model.
    if saved is None or settings.model != "auto" or settings.server is not None:
        return settings
    return replace(settings, model=saved.record.model)


def resume_hint(recorder: Recorder) -> str | None:
    """How to go on later; None where nothing was saved."""
    return recorder.session_id and f"rqchat --resume {recorder.session_id} goes on from here"
