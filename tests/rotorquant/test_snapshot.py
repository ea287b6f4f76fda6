"""A cache in a file: back to the bit, and refused in any state but the one that was written."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rotorquant import Bits, RotorQuantCache, Source, calibrate
from rotorquant.exceptions import CacheStateError, SnapshotError
from rotorquant.snapshot import FORMAT, _digest
from tests.rotorquant.models import SHARED, SMALL_WINDOW, gemma, llama, random_tokens

SOURCE = Source("google/gemma-4-31B-it", "a1b2c3", "00ff")
STRUCTURES = {
    "tied": gemma,
    "tied in bfloat16": lambda: gemma(torch.bfloat16),
    "shared": lambda: gemma(**SHARED),
    "split": llama,
}


@pytest.fixture(scope="module")
def model() -> Any:
    return gemma()


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "cache.safetensors"
    filled(model).save(path, SOURCE)
    return path.read_bytes()


def filled(model: Any, batch: int = 2, **options: Any) -> RotorQuantCache:
    cache = RotorQuantCache(model, **{**SMALL_WINDOW, **options})
    with torch.no_grad():
        for part in random_tokens(batch, 101).split([70, 30, 1], dim=1):
            model(part, past_key_values=cache)
    return cache


def assert_same_answers(model: Any, *caches: Any) -> None:
    """Twelve tokens on top of each of two caches, and their logits, are equal to the bit."""
    asked = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, "pad_token_id": 0}
    asked |= {"output_logits": True, "return_dict_in_generate": True}
    tokens = random_tokens(2, 104)
    first, second = (model.generate(tokens, past_key_values=each, **asked) for each in caches)
    assert torch.equal(first.sequences, second.sequences)
    assert torch.equal(torch.stack(first.logits), torch.stack(second.logits))


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("sliding_bits", [8, 16])
def test_generation_goes_on_with_equal_tokens_and_equal_logits(
    structure: str, sliding_bits: int, tmp_path: Path
) -> None:
    model = STRUCTURES[structure]()
    cache = filled(model, sliding_bits=sliding_bits, bits=Bits(5, 3, 6))
    path = tmp_path / "cache.safetensors"
    cache.save(path, SOURCE)
    loaded = RotorQuantCache.load(path, model, source=SOURCE)
    assert (loaded.config, loaded.packed_tokens) == (cache.config, cache.packed_tokens)
    assert_same_answers(model, cache, loaded)


@pytest.mark.parametrize("structure", ["tied", "split"])
def test_a_calibrated_cache_needs_no_calibration_to_come_back(
    structure: str, tmp_path: Path
) -> None:
    model = STRUCTURES[structure]()
    calibration = calibrate(model, random_tokens(1, 200, seed=9))
    cache = filled(model, mode="aligned", bits=3, calibration=calibration)
    cache.save(tmp_path / "cache")
    loaded = RotorQuantCache.load(tmp_path / "cache", model)
    assert loaded.config == cache.config
    assert_same_answers(model, cache, loaded)


def test_left_padding_comes_back_with_its_positions(model: Any, tmp_path: Path) -> None:
    tokens, mask = random_tokens(2, 90), torch.ones(2, 91, dtype=torch.long)
    mask[0, :30] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    with torch.no_grad():
        model(
            tokens,
            attention_mask=mask[:, :90],
            position_ids=positions[:, :90],
            past_key_values=cache,
        )
        cache.save(tmp_path / "cache")
        loaded = RotorQuantCache.load(tmp_path / "cache", model)
        step = {"attention_mask": mask, "position_ids": positions[:, 90:]}
        expected, given = (
            model(tokens[:, :1], past_key_values=item, **step).logits for item in (cache, loaded)
        )
    assert torch.equal(expected, given)


def test_an_empty_cache_can_be_saved(model: Any, tmp_path: Path) -> None:
    RotorQuantCache(model, bits=3).save(tmp_path / "cache")
    loaded = RotorQuantCache.load(tmp_path / "cache", model)
    assert (loaded.get_seq_length(), loaded.nbytes, loaded.config.bits) == (0, 0, 3)


def test_a_loaded_cache_may_have_another_maximum(model: Any, tmp_path: Path) -> None:
    cache = filled(model)
    cache.save(tmp_path / "cache")
    loaded = RotorQuantCache.load(tmp_path / "cache", model, max_tokens=120)
    assert_same_answers(model, cache, loaded)
    assert loaded.config.max_tokens == 120


def test_the_header_is_plain_and_complete(model: Any, saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(saved)
    with safe_open(tmp_path / "cache", framework="pt") as file:
        header = json.loads(file.metadata()["rotorquant"])
    cache = filled(model)
    assert header["format"] == FORMAT
    assert header["source"] == asdict(SOURCE)
    assert header["config"] == asdict(cache.config)
    assert header["tokens"] == 101
    kinds = [layer["kind"] for layer in header["layers"]]
    assert kinds == ["sliding"] * 2 + ["tied"]
    assert header["layers"][0]["window"] == 16


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short_is_refused(
    share: float, saved: bytes, model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "cut"
    path.write_bytes(saved[: int(len(saved) * share)])
    with pytest.raises(SnapshotError, match="cut cannot be loaded: it is no whole safetensors"):
        RotorQuantCache.load(path, model)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_changed_byte_is_found(
    data: st.DataObject, saved: bytes, model: Any, tmp_path: Path
) -> None:
    header = 8 + int.from_bytes(saved[:8], "little")
    in_header = data.draw(st.booleans())
    place = data.draw(
        st.integers(0, header - 1) if in_header else st.integers(header, len(saved) - 1)
    )
    damaged = bytearray(saved)
    damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    try:
        loaded = RotorQuantCache.load(path, model)
    except SnapshotError as error:
        assert "damaged cannot be loaded: " in str(error)
    else:
        # White space between entries of the header carries nothing.
        assert bytes([damaged[place], saved[place]]).isspace()
        assert loaded.packed_tokens == filled(model).packed_tokens


def test_bytes_added_at_the_end_are_found(saved: bytes, model: Any, tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(saved + b"\0")
    with pytest.raises(SnapshotError, match="no whole safetensors file"):
        RotorQuantCache.load(tmp_path / "long", model)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (llama, "storing layer 0 is"),
        (lambda: gemma(num_hidden_layers=2), "3 storing layers and the model has 2"),
        (lambda: gemma(sliding_window=32), "storing layer 0 is"),
        (lambda: gemma(attention_k_eq_v=False), "storing layer 2 is"),
        (lambda: gemma(num_key_value_heads=1), "storing layer 0 is"),
    ],
)
def test_another_model_is_refused(other: Any, says: str, saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(saved)
    model = other()
    attention = model.config._attn_implementation
    with pytest.raises(SnapshotError, match=says):
        RotorQuantCache.load(tmp_path / "cache", model)
    assert model.config._attn_implementation == attention != "rotorquant"


def test_other_weights_behind_the_tie_are_refused(saved: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(saved)
    tuned = gemma()
    tuned.model.layers[2].self_attn.k_norm.weight.data[3] += 0.01
    with pytest.raises(SnapshotError, match="storing layer 2 is"):
        RotorQuantCache.load(tmp_path / "cache", tuned)


@pytest.mark.parametrize("field", ["model_id", "revision", "token_hash"])
def test_another_source_is_refused(field: str, saved: bytes, model: Any, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(saved)
    with pytest.raises(SnapshotError, match=f"its {field} is '.+', not 'other'"):
        RotorQuantCache.load(tmp_path / "cache", model, source=Source(**{field: "other"}))


def test_another_class_is_refused(saved: bytes, model: Any, tmp_path: Path) -> None:
    class OtherCache(RotorQuantCache):
        """Of another name."""

    (tmp_path / "cache").write_bytes(saved)
    with pytest.raises(SnapshotError, match="of a RotorQuantCache; load it with"):
        OtherCache.load(tmp_path / "cache", model)


def test_strange_files_are_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="missing cannot be loaded: there is no such file"):
        RotorQuantCache.load(tmp_path / "missing", model)
    with pytest.raises(SnapshotError, match="cannot be loaded"):
        RotorQuantCache.load(tmp_path, model)
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights")
    with pytest.raises(SnapshotError, match="it is no saved cache"):
        RotorQuantCache.load(tmp_path / "weights", model)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 99}, "its format is 99 and this version reads 2"),
        ({"surprise": 1}, "its header cannot be read"),
        ({"config": {"bits": 7}}, "its header cannot be read .+bits is 7"),
        ({"layers": [1]}, "its header cannot be read"),
        ({"tokens": 100}, "a layer has 101 tokens of 100"),
    ],
)
def test_a_header_with_a_right_checksum_is_still_read_with_care(
    change: dict[str, Any], says: str, saved: bytes, model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "cache"
    path.write_bytes(saved)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["rotorquant"])
    tensors = load_file(path)
    if "config" in change:
        change = {"config": header["config"] | change["config"]}
    text = json.dumps(header | change)
    save_file(tensors, path, {"rotorquant": text, "sha256": _digest(text, tensors)})
    with pytest.raises(SnapshotError, match=says):
        RotorQuantCache.load(path, model)


def test_a_failed_write_leaves_the_old_file(
    saved: bytes, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache"
    path.write_bytes(saved)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rotorquant.snapshot.save_file", full)
    with pytest.raises(SnapshotError, match="cache cannot be written: .+No space left"):
        filled(model).save(path)
    assert path.read_bytes() == saved
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(SnapshotError, match="cannot be written"):
        filled(model).save(tmp_path / "no" / "folder")


def test_a_cache_that_broke_off_is_not_saved(model: Any, tmp_path: Path) -> None:
    cache = filled(model)
    cache._storing[0].crop_to(100)
    with pytest.raises(CacheStateError, match="broke off"):
        cache.save(tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_a_refusal_harms_nothing(saved: bytes, model: Any, tmp_path: Path) -> None:
    """A live cache of the same model goes on as if nobody had tried."""
    cache = filled(model)
    (tmp_path / "cache").write_bytes(saved[:-9])
    with pytest.raises(SnapshotError):
        RotorQuantCache.load(tmp_path / "cache", model)
    assert_same_answers(model, cache, filled(model))
