"""File names as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqchat.engine.inputs.reference_paths import as_path, split_paths
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
