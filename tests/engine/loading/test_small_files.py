"""Which tokens end an answer, whatever form the files give them in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.engine.weights.loading import load
from tests.helpers import SPECIAL_TOKENS, TEMPLATE

EOS, TURN_END, AUDIO = (SPECIAL_TOKENS.index(token) for token in ("<eos>", "<turn|>", "<|audio>"))
ABSENT = object()


@pytest.fixture
def copied_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _stop_tokens(folder: Path, generation: Any, config: Any, in_text: Any) -> frozenset[int]:
    """Of `folder` with those `eos_token_id` in its three places."""
    for file, section, value in (
        ("generation_config.json", None, generation),
        ("config.json", None, config),
        ("config.json", "text_config", in_text),
    ):
        path = folder / file
        content = json.loads(path.read_text(encoding="utf-8"))
        place = content[section] if section else content
        place.pop("eos_token_id", None)
        if value is not ABSENT:
            place["eos_token_id"] = value
        path.write_text(json.dumps(content), encoding="utf-8")
    return load(folder).stop_ids


@pytest.mark.parametrize(
    ("generation", "config", "in_text", "wanted"),
    [
        (EOS, ABSENT, ABSENT, {EOS}),
        ([EOS], None, [], {EOS}),
        (EOS, AUDIO, None, {EOS, AUDIO}),
        (None, [EOS], AUDIO, {EOS, AUDIO}),
        (ABSENT, ABSENT, ABSENT, set()),
        ([EOS, 10**6, -1], ABSENT, ABSENT, {EOS}),
    ],
)
def test_they_are_those_of_all_files_and_the_templates_end_of_a_turn(
    copied_folder: Path, generation: Any, config: Any, in_text: Any, wanted: set[int]
) -> None:
    """A finetune's generation_config.json may name `<eos>` alone, which no turn ends with."""
    assert _stop_tokens(copied_folder, generation, config, in_text) == wanted | {TURN_END}


def test_a_template_that_ends_turns_otherwise(copied_folder: Path) -> None:
    template = TEMPLATE.replace("<turn|>\\n", "<audio|>\\n")
    (copied_folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (copied_folder / "generation_config.json").unlink()

    ends = _stop_tokens_without_files(copied_folder)

    assert ends == {SPECIAL_TOKENS.index("<audio|>")}


def _stop_tokens_without_files(folder: Path) -> frozenset[int]:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("eos_token_id", None)
    config["text_config"].pop("eos_token_id", None)
    path.write_text(json.dumps(config), encoding="utf-8")
    return load(folder).stop_ids
