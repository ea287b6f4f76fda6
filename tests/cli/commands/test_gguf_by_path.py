"""`--model FILE.gguf`: the file alone answers as the model that it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rqchat.pocket.training.architecture import model_folder
from tests.cli.conftest import Run
from tests.engine.weights.gguf_models import write_gguf_folder


def test_a_gguf_file_answers_as_the_folder_that_it_was_made_of(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RQCHAT_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    write_gguf_folder(model_folder(), tmp_path, "F32")
    (tmp_path / "notes.txt").write_text("Twelve loaves and a cake.")
    answers, plans = [], []
    for model in ("pocket", "tiny.gguf", str(tmp_path)):
        exact = ("--kv-bits", "16", "--temperature", "0", "--max-tokens", "8", "--no-log")
        asked = run("ask", "What is the capital of France?", *exact, "--model", model)
        assert asked.code == 0, asked.err
        answers.append(asked.out)
        planned = run("plan", "--model", model, "--doc", "notes.txt", "--json")
        # What is free meanwhile differs
        plans.append(json.loads(planned.out) | {"model": "", "device": {}, "reason": ""})

    assert answers[0] and answers == [answers[0]] * 3
    assert plans == [plans[0]] * 3
    missing = run("ask", "Hi", "--model", "other.gguf")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert "there is no model 'other.gguf'" in missing.err
    assert "a folder, a GGUF file, or 'pocket'" in missing.err
