"""The floor under a token, for cards that are not here."""

from __future__ import annotations

import json

import pytest

from rqchat.bench.cards import roofline
from rqchat.engine.planning.devices import planned_card
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings


def test_every_card_and_context_has_its_bytes_and_its_floor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["roofline", "--vram", "24GiB", "32GiB", "--contexts", "8192", "131072"]
    monkeypatch.setattr("sys.argv", arguments)
    roofline.main()

    *lines, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert [row["context_tokens"] for row in rows] == [8192, 131_072] * 2
    assert len(lines) == 2 + len(rows) and "no GPU" in lines[0]
    shape, card = ModelShape.from_config(known_models()[0].config), planned_card(24 * 2**30)
    chosen = make_plan(shape, card, Settings(context_tokens=8192)).chosen
    assert rows[0]["bytes_per_token"] == chosen.read_bytes
    # An RTX 4090 reads 1,008 GB in a second, an RTX 5090 1,792
    assert rows[0]["floor_ms"] == pytest.approx(chosen.read_bytes / 1.008e9)
    assert rows[3]["floor_ms"] == pytest.approx(rows[3]["bytes_per_token"] / 1.792e9)
    assert not any(row["tokens_per_s"] for row in rows)

    monkeypatch.setattr("sys.argv", [*arguments[:3], "--bandwidth", "2000", "--contexts", "8192"])
    roofline.main()
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["floor_ms"] == pytest.approx(chosen.read_bytes / 2e9)


def test_what_cannot_be_reckoned_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["roofline", "--model", "nothing", "--vram", "24GiB"])
    with pytest.raises(SystemExit, match="shapes are known of 31b"):
        roofline.main()
