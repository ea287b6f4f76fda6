"""The first start on a GPU compiles its kernels, which takes a while, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rqchat.engine.events import Event, Notice
from rqchat.engine.loading import open_model as opening
from rqchat.engine.planning.devices import DeviceInfo, planned_card
from rqchat.engine.settings import Settings


class _LoadedError(Exception):
    """Stands for everything behind the notices."""


def _notices(monkeypatch: pytest.MonkeyPatch, device: DeviceInfo) -> list[str]:
    events: list[Event] = []

    def load(*arguments: Any, **options: Any) -> None:
        raise _LoadedError

    monkeypatch.setattr(opening, "device_for", lambda settings: device)
    monkeypatch.setattr(opening, "load_model", load)
    with pytest.raises(_LoadedError):
        opening.open_model(Settings(model="pocket"), events.append)
    return [each.text for each in events if isinstance(each, Notice)]


def test_the_first_start_on_a_gpu_says_what_its_answer_waits_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    gpu = planned_card(24 * 2**30)
    turing = DeviceInfo("T4", 16 * 2**30, 16 * 2**30, "NVML", capability=(7, 5))

    (said,) = _notices(monkeypatch, gpu)
    assert "to be compiled" in said and str(tmp_path) in said
    assert not _notices(monkeypatch, turing)

    compiled = tmp_path / "KEY" / "chunk_kernel.json"
    compiled.parent.mkdir()
    compiled.touch()
    assert not _notices(monkeypatch, gpu)
