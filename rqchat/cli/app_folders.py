"""Where files lie: ours by the rules of each platform, models where the hub puts them.

`platformdirs` knows the rules: the XDG base directory specification on Linux, `Library` on macOS,
`AppData` on Windows. Where no home folder is known, a folder is None or an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from rqchat.engine.settings import settings_file
from rqchat.errors import StoreError

__all__ = [
    "config_file",
    "history_file",
    "kv_cache_folder",
    "model_cache_folder",
    "store_file",
]


def config_file() -> Path | None:
    """The settings file: `RQCHAT_CONFIG`, or one in the platform's folder for settings."""
    given = settings_file()
    if given is not None:
        return given
    folder = _platform_folder(platformdirs.user_config_path)
    return folder and folder / "config.toml"


def history_file() -> Path | None:
    """The file of lines typed in the chat, in the platform's folder for state."""
    folder = _platform_folder(platformdirs.user_state_path)
    return _unless_former(folder, "history", _xdg_folder("XDG_STATE_HOME", ".local/state"))


def kv_cache_folder() -> Path | None:
    """The folder for KV caches of long documents, in the platform's folder for caches."""
    folder = _platform_folder(platformdirs.user_cache_path)
    return _unless_former(folder, "kv", _xdg_folder("XDG_CACHE_HOME", ".cache"))


def store_file() -> Path:
    """The file of saved conversations, in the platform's folder for data.

    Raises:
        StoreError: no home folder is known.
    """
    folder = _platform_folder(platformdirs.user_data_path)
    if folder is None:
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


def _platform_folder(find: Callable[..., Path]) -> Path | None:
    """Our folder of one kind; None where no home folder is known."""
    try:
        folder = find("rqchat", appauthor=False)
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None


def _unless_former(folder: Path | None, name: str, xdg_folder: Path | None) -> Path | None:
    """`name` in `folder`, or in `xdg_folder` where it exists only there.

    Version 0.1 followed the XDG rules on every platform; what it left on macOS and Windows is used
    where it lies as long as there is nothing at the new place. On Linux both places are the same,
    unless a variable holds a relative path: the specification asks to ignore that, and not every
    version of platformdirs does.
    """
    path, former = folder and folder / name, xdg_folder and xdg_folder / "rqchat" / name
    if former and (path is None or (former.exists() and not path.exists())):
        return former
    return path


def _xdg_folder(variable: str, folder: str) -> Path | None:
    """What `variable` says, or `folder` in the home folder; None where that is not known."""
    given = Path(os.environ.get(variable) or "")
    if given.is_absolute():
        return given
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / folder if home.is_absolute() else None
