"""Where files lie: by the variables that users set, and on other platforms than this one."""

from __future__ import annotations

import pwd
from pathlib import Path

import platformdirs
import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from rqchat.cli.app_folders import (
    config_file,
    history_file,
    kv_cache_folder,
    model_cache_folder,
    store_file,
)
from rqchat.errors import StoreError


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder, and no variable that names another place."""
    for name in (
        "XDG_STATE_HOME",
        "XDG_CACHE_HOME",
        "XDG_DATA_HOME",
        "XDG_CONFIG_HOME",
        "HF_HOME",
        "HF_HUB_CACHE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
    return tmp_path


def test_linux_follows_xdg(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert history_file() == home / ".local/state/rqchat/history"
    assert kv_cache_folder() == home / ".cache/rqchat/kv"
    assert store_file() == home / ".local/share/rqchat/conversations.db"
    for name in ("STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", "relative/is/ignored")
    assert history_file() == home / ".local/state/rqchat/history"
    assert kv_cache_folder() == home / ".cache/rqchat/kv"
    for name in ("STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", "/somewhere")
    assert history_file() == Path("/somewhere/rqchat/history")
    assert kv_cache_folder() == Path("/somewhere/rqchat/kv")


def test_macos_has_its_own_folders_and_uses_what_version_0_1_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "PlatformDirs", MacOS)
    new_history = home / "Library/Application Support/rqchat/history"
    new_cache = home / "Library/Caches/rqchat/kv"
    assert (history_file(), kv_cache_folder()) == (new_history, new_cache)
    old_history, old_cache = home / ".local/state/rqchat/history", home / ".cache/rqchat/kv"
    old_history.parent.mkdir(parents=True)
    old_history.touch()
    old_cache.mkdir(parents=True)
    new_history.parent.mkdir(parents=True)  # made for the conversations, and no reason to move
    assert (history_file(), kv_cache_folder()) == (old_history, old_cache)
    new_history.touch()
    new_cache.mkdir(parents=True)
    assert (history_file(), kv_cache_folder()) == (new_history, new_cache)


def test_no_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(user: int) -> None:
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.delenv("RQCHAT_CONFIG", raising=False)
    assert (config_file(), history_file(), kv_cache_folder()) == (None, None, None)
    with pytest.raises(StoreError, match="set XDG_DATA_HOME"):
        store_file()


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/cache", "HF_HOME": "/hf"}, "/hf/hub"),
        ({"HF_HOME": "/hf", "HF_HUB_CACHE": "~/models"}, "/home/me/models"),
    ],
)
def test_models_lie_where_the_hub_puts_them(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert str(model_cache_folder()) == folder
