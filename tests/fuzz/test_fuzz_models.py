"""Whatever the files of a model hold, rqchat works with it or says in a sentence why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from rqchat.errors import RqchatError
from tests.fuzz.fuzz_models import SURFACES

# Those that load a model, or start a process for a template, take a hundred times as long
_CASES = {"tokenizers": 8, "small_files": 8, "calibrations": 4, "templates": 5}


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.__name__)
def test_only_sentences_come_out(surface: Callable[[Random, Path], None], tmp_path: Path) -> None:
    refused = 0
    for seed in range(_CASES.get(surface.__name__, 80)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            surface(Random(seed), folder)
        except RqchatError as error:
            refused += 1
            assert str(error).isprintable(), seed
    assert refused
