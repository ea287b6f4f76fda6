"""Fidelity of the planned cache on a real model, and calibrations that sessions find."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from rotorquant import Calibration
from rqchat.engine.events import Event, Notice
from rqchat.engine.measure.fidelity_record import Fidelity, FidelityRow
from rqchat.engine.measure.kv_fidelity import LEAST_TOKENS, calibrate_model, verify_model
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import Settings
from rqchat.errors import InputError, ModelError, UsageError
from rqchat.pocket.training.language.prose import held_out_prose

POCKET = Path(__file__).resolve().parents[3] / "rqchat" / "pocket"


@pytest.fixture(scope="module")
def text() -> str:
    return max((text for _, text in held_out_prose()), key=len)[:8000]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model without its calibration."""
    folder = tmp_path_factory.mktemp("model")
    for path in POCKET.iterdir():
        if path.suffix in (".json", ".jinja") or path.name == "model.safetensors":
            shutil.copy(path, folder)
    return folder


def ignore(event: object) -> None:
    """Nobody listens."""


def test_fewer_bits_cost_more_than_the_floor(text: str) -> None:
    found = {
        bits: verify_model(Settings(model="pocket", kv_bits=bits), text, 1024, ignore)
        for bits in (2, 4)
    }
    assert found[4].floor.mean < 1e-9 < found[4].planned.mean < found[2].planned.mean
    assert [found[bits].planned.token_bytes for bits in (2, 4)] == [34, 66]
    assert found[4].planned.top_1 > found[2].planned.top_1
    assert found[4].scored_tokens < 1024
    assert found[4].calibration


def test_a_model_is_calibrated_once_and_sessions_use_it(text: str, bare: Path) -> None:
    settings = Settings(model=str(bare), kv_bits=3)
    assert ChatSession.open(settings).facts.calibration == ""
    said: list[Event] = []
    path = calibrate_model(settings, text, 1100, said.append)
    known = Calibration.load(path)
    assert path.parent == bare and known.tokens == 1100
    # Nothing is cut without a word
    notices = [event.text for event in said if isinstance(event, Notice)]
    assert any("the first 1,100 of" in line for line in notices)
    assert ChatSession.open(settings).facts.calibration == known.digest
    # Other engines take every .safetensors file of a folder for weights; 0.1 called it so
    assert path.suffix != ".safetensors"
    old = path.rename(bare / "calibration.safetensors")
    assert ChatSession.open(settings).facts.calibration == known.digest
    old.rename(path)


def test_the_pocket_model_brings_a_calibration() -> None:
    session = ChatSession.open(Settings(model="pocket"))
    assert session.facts.calibration
    assert ChatSession.open(Settings(model="pocket", kv_bits=16)).facts.calibration == ""
    with pytest.raises(UsageError, match="the pocket model brings its calibration"):
        calibrate_model(Settings(model="pocket"), None, 1024, ignore)


def test_without_a_text_one_is_read_in_which_the_model_is_not_sure() -> None:
    """A small model's own text ends in a loop: perplexity 1, whatever the cache does."""
    said: list[object] = []
    found = verify_model(Settings(model="pocket", kv_bits=2), None, 1024, said.append)
    assert found.floor.perplexity > 2 and found.planned.mean > found.floor.mean
    assert any("the help of Python" in str(event) for event in said)


def test_a_short_text_is_refused() -> None:
    with pytest.raises(InputError, match=f"{LEAST_TOKENS:,} are needed"):
        verify_model(Settings(model="pocket"), "too short", 2000, ignore)


def test_a_broken_calibration_is_named(bare: Path) -> None:
    (bare / "calibration.rq").write_bytes(b"broken")
    with pytest.raises(ModelError, match=r"calibration\.rq"):
        ChatSession.open(Settings(model=str(bare), kv_bits=4))


@pytest.mark.parametrize(
    ("top_1", "mean", "bits", "said"),
    [
        (0.995, 0.001, 4, "as good as exact here: they change 0.5%"),
        (0.98, 0.02, 4, "close to exact.*--kv-bits 5"),
        (0.995, 0.2, 8, "cost quality.*--kv-bits 16"),
        (0.5, 0.2, 16, r"cost quality here: they change 50.0% of the likeliest next tokens\."),
    ],
)
def test_the_judgement(top_1: float, mean: float, bits: int, said: str) -> None:
    row = FidelityRow("", bits, 66, mean, mean, mean, top_1, 1.0)
    found = Fidelity("m", "fp32", "abc", 1000, row, row)
    assert re.search(said, found.verdict)


def test_the_judgement_knows_of_calibrations() -> None:
    row = FidelityRow("", 4, 66, 0.2, 0.2, 0.2, 0.9, 1.0)
    assert "rqchat calibrate" in Fidelity("m", "fp32", "", 1000, row, row).verdict
    assert "calibrat" not in Fidelity("m", "fp32", "abc", 1000, row, row).verdict
