"""Tokens that no model may draw: `suppress_tokens`, and what stands for pictures and sound."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import ModelError, RqchatError
from tests.engine.sessions import Answers, open_session, over
from tests.helpers import SPECIAL_TOKENS, byte_tokenizer
from tests.tape import TapeRecorder, decodes_on_device

_GREEDY = SamplingSettings(temperature=0, max_tokens=24)
_WILD = SamplingSettings(temperature=10, top_k=0, top_p=1, seed=1, max_tokens=100)
_MEDIA = {i for i, token in enumerate(SPECIAL_TOKENS) if "image" in token or "audio" in token}
_MEDIA.add(SPECIAL_TOKENS.index("<|video|>"))
_BYTES = len(SPECIAL_TOKENS)  # the token of the first byte in the order of the alphabet


def _folder_that_suppresses(tiny_folder: Path, tmp_path: Path, tokens: Any) -> Path:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    path = folder / "generation_config.json"
    given = json.loads(path.read_text(encoding="utf-8")) | {"suppress_tokens": tokens}
    path.write_text(json.dumps(given), encoding="utf-8")
    return folder


def test_no_placeholder_of_a_picture_or_sound_is_drawn(endless: ChatSession) -> None:
    answers = Answers(over(endless))
    answers.ask("Tell me.", _WILD)

    assert len(answers.tokens) == 100
    assert _MEDIA.isdisjoint(answers.tokens)
    assert set(range(len(SPECIAL_TOKENS))) & set(answers.tokens)  # other control tokens are


@pytest.mark.parametrize("captured", [False, True])
def test_what_generation_config_suppresses_is_not_drawn(
    endless: ChatSession,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    captured: bool,
) -> None:
    free = Answers(over(endless))
    free.ask("Tell me.", _GREEDY)
    liked = sorted({*free.tokens} | {*range(_BYTES + 10, _BYTES + 60)})
    folder = _folder_that_suppresses(tiny_folder, tmp_path, [*liked, -1, 10**9])
    if captured:
        decodes_on_device(monkeypatch)
    held = Answers(over(open_session(folder), TapeRecorder() if captured else None))

    held.ask("Tell me.", _GREEDY)
    held.ask("Tell me.", dataclasses.replace(_WILD, max_tokens=40))

    assert len(held.tokens) > 30
    assert set(liked).isdisjoint(held.tokens)


def test_json_is_written_without_suppressed_tokens(tiny_folder: Path, tmp_path: Path) -> None:
    below_nine = byte_tokenizer().convert_tokens_to_ids(list("012345678"))
    folder = _folder_that_suppresses(tiny_folder, tmp_path, below_nine)
    session = open_session(folder)
    answers = Answers(session)

    answers.ask("A number?", _GREEDY, schema='{"type": "integer", "maximum": 99}')
    assert set(session.messages[-1].text) <= set("-9")
    with pytest.raises(RqchatError, match="suppresses"):
        answers.ask("A number?", _GREEDY, schema='{"const": 12}')


@pytest.mark.parametrize("given", ["x", [1.5], [[3]], {"a": 1}])
def test_what_is_no_list_of_tokens_is_said(tiny_folder: Path, tmp_path: Path, given: Any) -> None:
    folder = _folder_that_suppresses(tiny_folder, tmp_path, given)

    with pytest.raises(ModelError, match=r"suppress_tokens of generation_config\.json is"):
        open_session(folder)
