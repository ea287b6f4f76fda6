"""Where files lie: ours by the XDG base directory specification, models where the hub puts them."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from rqchat.engine.settings import settings_file
from rqchat.errors import StoreError

__all__ = [
    "config_file",
    "history_file",
    "kv_cache_folder",
    "model_cache_folder",
    "state_folder",
    "store_file",
]


def config_file() -> Path | None:
    """The settings file: `RQCHAT_CONFIG`, or one in the platform's folder for settings."""
    folder = platformdirs.user_config_path("rqchat", appauthor=False)
    return settings_file() or (folder / "config.toml" if folder.is_absolute() else None)


def state_folder() -> Path | None:
    """The folder for what is kept between runs; None where no home folder is known.

    A relative `XDG_STATE_HOME` is ignored, as the specification asks.
    """
    given = Path(os.environ.get("XDG_STATE_HOME") or "")
    if given.is_absolute():
        return given / "rqchat"
    home = _home()
    return home and home / ".local" / "state" / "rqchat"


def _home() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None


def history_file() -> Path | None:
    """The file of lines typed in the chat."""
    folder = state_folder()
    return folder / "history" if folder else None


def kv_cache_folder() -> Path | None:
    """The folder for KV caches of long documents; None where no home folder is known."""
    given = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if given.is_absolute():
        return given / "rqchat" / "kv"
    home = _home()
    return home and home / ".cache" / "rqchat" / "kv"


def store_file() -> Path:
    """The file of saved conversations, in the folder that the platform has for data.

    Raises:
        StoreError: no home folder is known.
    """
    folder = platformdirs.user_data_path("rqchat", appauthor=False)
    if not folder.is_absolute():
        raise StoreError("no folder is known for conversations; set XDG_DATA_HOME to a whole path")
    return folder / "conversations.db"


def model_cache_folder() -> Path:
    """Where the Hugging Face hub's client keeps what it downloads, by its documented variables."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    folder = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")
    try:
        return folder.expanduser()
    except RuntimeError:
        return folder
