"""`rqchat models`, and the question before a download."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from rqchat.cli import download_consent
from rqchat.engine.planning import devices
from tests.cli.conftest import Run
from tests.cli.fake_session import FakeSession

MODEL, QAT = "google/gemma-4-12B-it", "google/gemma-4-12B-it-qat-w4a16-ct"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's folder, with half of a download and somebody's finetune in it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in (QAT, "someone/gemma-4-cats"):
        blobs = tmp_path / f"models--{name.replace('/', '--')}" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "0123.part").write_bytes(bytes(2**20))
    return tmp_path


def test_the_list_says_what_fits_and_what_is_here(run: Run, cache: Path) -> None:
    found = json.loads(run("models", "list", "--vram", "12", "--json").out)

    rows = {row["model"]: row for row in found}
    assert [row["short_name"] for row in found] == ["31b", "26b-a4b", "12b", "e4b", "e2b", ""]
    assert rows["google/gemma-4-31B-it"]["plan"] is None
    assert rows[MODEL]["plan"]["weights"] == "int4"
    assert (rows[MODEL]["bytes_here"], rows["someone/gemma-4-cats"]["bytes_here"]) == (2**20, 2**20)
    plain = run("models").out.splitlines()
    assert [line.split("\t")[0] for line in plain] == [row["short_name"] for row in found]


def test_a_model_is_removed_by_its_short_name(run: Run, cache: Path) -> None:
    assert run("models", "rm", "12b", "someone/gemma-4-cats").code == 0
    assert list(cache.iterdir()) == []
    result = run("models", "rm", "12b")
    assert (result.code, "12b is not on this machine; there are: none" in result.err) == (2, True)


def test_nothing_is_downloaded_unasked(
    run: Run, session: FakeSession, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "find_devices", lambda: (devices.planned_card(12 * 2**30),))
    asked = ("ask", "Hello")
    result = run(*asked, stdin=b"")
    assert (result.code, session.asked) == (1, [])
    assert "12B-it is not on this machine: " in result.err and "GiB into" in result.err
    assert "give --yes, or download it with 'rqchat pull google/gemma-4-12B-it'" in result.err

    monkeypatch.setattr(download_consent, "is_terminal", lambda name: True)
    answers = iter([False, True])
    monkeypatch.setattr(download_consent, "_is_yes", lambda question: next(answers))
    assert "nothing was downloaded" in run(*asked).err
    assert run(*asked).code == 0
    assert session.settings is not None and session.settings.may_download
    assert run(*asked, "--yes", stdin=b"").code == 0
