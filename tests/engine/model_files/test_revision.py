"""The fingerprint of a model changes when its files do, and only then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rqchat.engine.model_files import resolve
from rqchat.engine.model_files.resolve import model_revision


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "gemma4"}')
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    (model / "model.gguf").write_bytes(bytes(range(256)))
    return model


def test_a_copy_has_the_same_revision(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "config.json", (0, 0))
    (tmp_path / "copy" / "notes.txt").write_text("no part of the model")
    assert model_revision(tmp_path / "copy") == model_revision(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.gguf"])
def test_a_changed_byte_changes_it(folder: Path, name: str) -> None:
    before = model_revision(folder)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    assert model_revision(folder) != before


def test_a_large_file_is_sampled_at_both_ends(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "_WHOLE_BYTES", 1024)
    monkeypatch.setattr(resolve, "_SAMPLE_BYTES", 16)
    weights = folder / "model.safetensors"
    seen = {model_revision(folder)}
    original = weights.read_bytes()
    for position in (0, len(original) - 1):
        changed = bytearray(original)
        changed[position] ^= 1
        weights.write_bytes(changed)
        seen.add(model_revision(folder))
    weights.write_bytes(original + b"\0")
    seen.add(model_revision(folder))
    assert len(seen) == 4


def test_a_hub_snapshot_is_known_by_its_commit(folder: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--google--gemma" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    assert model_revision(snapshot) == commit
