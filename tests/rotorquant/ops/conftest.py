"""On a GPU, too, an op is its reference until a test forces the kernel."""

from __future__ import annotations

import pytest

from rotorquant.ops import dispatch


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: False)
