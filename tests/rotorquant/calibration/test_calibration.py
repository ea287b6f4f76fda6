"""Calibration: statistics of what the layers see, their file, and caches that go by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import DynamicCache

import rotorquant
from rotorquant import Calibration, RotorQuantCache, RotorQuantConfig, calibrate
from rotorquant.calibration.statistics import StreamStatistics, make_frame, output_pulls
from rotorquant.exceptions import ConfigError
from tests.rotorquant.attend.test_entry import both_ways_after_a_prompt
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens


def known(model: Any, path: Path | None = None) -> Calibration:
    return calibrate(model, random_tokens(1, 300, seed=3), path, chunk_tokens=100)


@torch.no_grad()
@pytest.mark.parametrize(("make", "layers"), [(gemma, [2]), (llama, [0, 1, 2])])
def test_means_and_covariances_are_those_of_the_streams(make: Any, layers: list[int]) -> None:
    model = make()
    tokens = random_tokens(1, 80, seed=3)
    given = calibrate(model, tokens)
    assert list(given.layers) == layers
    model.config._attn_implementation = "eager"
    cache = DynamicCache(config=model.config)
    model(tokens, past_key_values=cache)
    for index in layers:
        layer: Any = cache.layers[index]
        stored = [layer.values] if make is gemma else [layer.keys, layer.values]
        for stream, rows in zip(given.layers[index], stored, strict=True):
            seen = rows[0, :, 4:]  # the first four tokens are left out
            torch.testing.assert_close(stream.mean, seen.mean(1), atol=1e-5, rtol=0)
            spread = torch.stack([torch.cov(head.mT, correction=0) for head in seen])
            torch.testing.assert_close(stream.covariance, spread, atol=1e-5, rtol=0)


def test_the_weights_tell_how_errors_of_keys_and_values_move_the_output() -> None:
    """Against autograd: sums over tokens of J^T J for keys and of |J|^2 / D for values."""
    draw = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(heads, 24, 8, generator=draw) for heads in (2, 1, 1))
    asked = torch.tensor([17, 23])
    pull, share = output_pulls(query, key, value, asked)
    expected, values = torch.zeros(1, 8, 8), 0.0
    for head in range(2):
        for place in asked.tolist():

            def output(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
                scores = k[: place + 1] @ query[head, place]  # noqa: B023
                return scores.softmax(0) @ v[: place + 1]  # noqa: B023

            by_key, by_value = torch.autograd.functional.jacobian(output, (key[0], value[0]))
            expected += torch.einsum("otd,ote->de", by_key, by_key)
            values += float(by_value.square().sum()) / 8
    # Float32 sums, of terms of both signs
    torch.testing.assert_close(pull, expected, atol=1e-5, rtol=1e-5)
    assert float(share) == pytest.approx(values, rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["aligned", "hadamard"])
@pytest.mark.parametrize("make", [gemma, llama])
def test_packed_attention_is_eager_attention_over_the_dequantized_cache(
    make: Any, mode: str
) -> None:
    """Offset and balance reach scores and output, also on padded rows."""
    model = make()
    cache = RotorQuantCache(model, 3, mode, calibration=known(model), **SMALL_WINDOW)
    ((eager, packed),) = both_ways_after_a_prompt(model, cache, [21], padding=29)
    torch.testing.assert_close(packed, eager, atol=5e-5, rtol=0)


def test_the_model_is_left_as_it_was() -> None:
    model = gemma()
    model.config._attn_implementation = "eager"
    known(model)
    assert model.config._attn_implementation == "eager"


def test_a_file_brings_it_back(tmp_path: Path) -> None:
    model, path = gemma(), tmp_path / "gemma.rq"
    given = known(model, path)
    again = Calibration.load(path)
    assert again.digest == given.digest
    assert (again.model, again.tokens) == (given.model, 300)
    assert path.stat().st_size < (2 * 32 * 32 + 32) * 4 + 1000
    first = RotorQuantCache(model, calibration=path)
    assert first.config.calibration == given.digest
    assert first.config == RotorQuantCache(model, calibration=given).config


def test_a_cache_made_with_a_calibration_is_not_read_without(tmp_path: Path) -> None:
    model = gemma()
    config = RotorQuantCache(model, calibration=known(model)).config
    with pytest.raises(ConfigError, match=f"made with calibration {config.calibration}.*none"):
        RotorQuantCache.from_config(model, config)
    other = calibrate(model, random_tokens(1, 100, seed=9))
    with pytest.raises(ConfigError, match="give the same file"):
        RotorQuantCache.from_config(model, config, other)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="other"):
        RotorQuantCache(gemma(), calibration=path)
    with pytest.raises(ConfigError, match="missing"):
        RotorQuantCache(gemma(), calibration=tmp_path / "missing")


@pytest.mark.parametrize("lost", ["2.0.mean", "2.0.weight", None])
def test_a_calibration_of_other_tensors_is_refused(tmp_path: Path, lost: str | None) -> None:
    path = tmp_path / "damaged"
    known(gemma(), path)
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    if lost is None:
        tensors = {name.replace(".", ""): tensor for name, tensor in tensors.items()}
    else:
        del tensors[lost]
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(ConfigError, match="damaged is a damaged calibration"):
        RotorQuantCache(gemma(), calibration=path)


def test_what_does_not_fit_is_refused() -> None:
    model = gemma()
    with pytest.raises(ConfigError, match="at least 64"):
        calibrate(model, random_tokens(1, 63))
    with pytest.raises(ConfigError, match="'planar' takes no calibration"):
        RotorQuantCache(model, mode="planar", calibration=known(model))
    with pytest.raises(ConfigError, match="this cache stores 1 of 32"):
        RotorQuantCache(model, calibration=known(gemma(attention_k_eq_v=False)))


def random_statistics(size: int) -> StreamStatistics:
    draw = torch.Generator().manual_seed(2)
    scale = torch.randn(2, 1, 1, size, generator=draw).exp()
    rows = torch.randn(2, 1, 3 * size, size, generator=draw) * scale
    spread, weight = rows.mT @ rows / (3 * size)
    return StreamStatistics(torch.zeros(1, size), spread, weight)


def cost(known: StreamStatistics, map_: torch.Tensor) -> float:
    """The weight of errors of one size on every mapped value, that size in units of the spread."""
    back = torch.linalg.inv(map_)
    spread = (map_ @ known.covariance @ map_.mT).diagonal(dim1=1, dim2=2).mean()
    return float(spread * (back.mT @ known.weight @ back).diagonal(dim1=1, dim2=2).mean())


def test_the_map_is_the_best_of_all_and_spreads_evenly() -> None:
    """Least is the square of the mean root of the eigenvalues of C W (Cauchy-Schwarz)."""
    known = random_statistics(64)
    frame = make_frame(known, 0)
    roots = torch.linalg.eigvals(known.covariance @ known.weight).real.sqrt()
    best = cost(known, frame.matrix)
    # The ridge of one per cent is not free.
    assert best == pytest.approx(float(roots.mean() ** 2), rel=0.05)
    draw = torch.Generator().manual_seed(3)
    for _ in range(20):
        other = frame.matrix @ (torch.eye(64) + 0.05 * torch.randn(64, 64, generator=draw))
        assert best < cost(known, other)
    variance = (frame.matrix @ known.covariance @ frame.matrix.mT).diagonal(dim1=1, dim2=2)
    # The ridge again; the spreads that it was given lie a factor of 100 and more apart.
    torch.testing.assert_close(variance, torch.ones(1, 64), atol=0.15, rtol=0)


def test_rotary_pairs_are_mixed_with_nothing_else() -> None:
    frame = make_frame(random_statistics(32), 4)
    owner = torch.full((32,), -1)
    owner[:4], owner[16:20] = torch.arange(4), torch.arange(4)
    together = owner[:, None] == owner
    for field in (frame.matrix, frame.inverse):
        assert torch.equal(field[0] != 0, together)
    # Two matrices rounded to float32
    torch.testing.assert_close(frame.matrix @ frame.inverse, torch.eye(32)[None], atol=5e-6, rtol=0)


def test_a_channel_that_never_moves_is_no_fault() -> None:
    known = random_statistics(32)
    known.covariance[0, 3], known.covariance[0, :, 3] = 0, 0
    assert all(field.isfinite().all() for field in make_frame(known, 4))


def test_the_options_of_a_cache_say_which() -> None:
    assert RotorQuantConfig().calibration == ""
    assert callable(rotorquant.calibrate)


@pytest.mark.parametrize(
    ("known_as", "expected"),
    [
        ("/home/me/models/gemma", "gemma"),
        ("./gemma", "gemma"),
        ("google/gemma-4", "google/gemma-4"),
    ],
)
def test_a_file_names_nothing_of_the_machine(known_as: str, expected: str) -> None:
    model = gemma()
    model.config._name_or_path = known_as
    assert calibrate(model, random_tokens(1, 64, seed=3)).model == expected
