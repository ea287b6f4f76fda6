"""Fixtures that several folders of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import build_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Gemma 4, as a hub model would lie there."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny"))
