"""File names as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqchat.cli.app_folders import history_file, model_cache_folder
from rqchat.cli.chat.slash.table import is_command
from rqchat.engine.inputs.references import as_path, split_paths
from rqchat.errors import UsageError


def test_several_words_are_several_paths() -> None:
    assert split_paths("a.png 'b c.png' d\\ e.png") == (
        Path("a.png"),
        Path("b c.png"),
        Path("d e.png"),
    )


def test_an_existing_file_with_blanks_is_one_path(tmp_path: Path) -> None:
    file = tmp_path / "it's a cat.png"
    file.touch()
    assert split_paths(f" {file} ") == (file,)


def test_file_urls_are_decoded() -> None:
    assert as_path("file:///tmp/my%20cat.png") == Path("/tmp/my cat.png")
    assert as_path("file://localhost/tmp/a.png") == Path("/tmp/a.png")


def test_open_quote() -> None:
    with pytest.raises(UsageError, match="a quote is not closed"):
        split_paths('"a.png')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/help", True),
        ("/hlep", True),
        ("/?", True),
        ("/", True),
        ("/tmp", False),
        ("/home/me/cat.png", False),
        ("hello /help", False),
        ("", False),
    ],
)
def test_what_counts_as_a_command(line: str, expected: bool) -> None:
    assert is_command(line) is expected


def test_history_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert history_file() == tmp_path / ".local/state/rqchat/history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert history_file() == tmp_path / ".local/state/rqchat/history"
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert history_file() == Path("/somewhere/rqchat/history")


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
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert str(model_cache_folder()) == folder
