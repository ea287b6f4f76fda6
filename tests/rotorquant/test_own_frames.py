"""Frames that layers learn from the rows that they pack, as caches do by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache
from rotorquant.calibration.own_frame import QuerySquares, own_frames
from rotorquant.codec.make_codec import make_codec
from rotorquant.config import RotorQuantConfig
from rotorquant.layers.global_layer import GlobalLayer
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens, read, stored_in

OPTIONS: dict[str, Any] = {"bits": 3, **SMALL_WINDOW}


def rows(tokens: int, head_dim: int) -> torch.Tensor:
    """As keys of Gemma 3 are: a mean with half of the energy, and a few loud channels."""
    torch.manual_seed(0)
    loud = torch.ones(head_dim)
    loud[::16] = 12.0
    return (torch.randn(1, 2, tokens, head_dim) + 1.0) * loud


@pytest.mark.parametrize(("tokens", "gain"), [(64, 4), (1024, 7)])
def test_rows_with_loud_channels_are_stored_better(tokens: int, gain: float) -> None:
    """The error of scores with queries that are all alike, of rows that were not learned from."""
    known, asked = rows(tokens + 256, 64).split([tokens, 256], dim=2)
    eye = torch.eye(64).expand(2, -1, -1)
    (frame, _) = own_frames([known, known], eye, pairs=0, norm=None)
    config, device = RotorQuantConfig(4), torch.device("cpu")
    errors = []
    for each in (None, frame):
        codec = make_codec(config, 0, None, 64, device, each)
        errors.append((codec.decode(codec.encode(asked)) - asked).square().mean())

    assert errors[1] * gain < errors[0]


def test_squares_are_those_of_the_queries_of_each_head() -> None:
    torch.manual_seed(1)
    query = torch.randn(2, 6, 5, 16)
    squares = QuerySquares()
    for part in query.split(3, dim=2):
        squares = squares.plus(part, 0.5, 2)

    wanted = torch.einsum("bhgtd,bhgte->hde", *[query.unflatten(1, (2, 3)) * 0.5] * 2) / (2 * 3 * 5)
    torch.testing.assert_close(squares.mean(2, 16, query.device), wanted)


def frames_of(cache: RotorQuantCache) -> list[torch.Tensor]:
    layers = [layer for layer in cache.layers if isinstance(layer, GlobalLayer)]
    return [field for layer in layers for field in layer.tensors()["frame"]]


@pytest.mark.parametrize("make", [gemma, llama])
def test_a_layer_learns_once_and_forgets_with_its_rows(make: Any) -> None:
    model, tokens = make(), random_tokens(1, 150)
    cache = RotorQuantCache(model, **OPTIONS)
    read(model, cache, tokens[:, :140])
    assert not frames_of(cache) and cache.packed_tokens == 0  # a prompt may go on
    held = cache.storage()
    read(model, cache, tokens[:, 140:141])
    learned = frames_of(cache)
    assert learned and cache.packed_tokens >= 64
    # A captured step reads the frames where it read before
    tables = [each for each in cache.storage() if each.ndim == 3 and each.shape[1] == each.shape[2]]
    assert tables and {id(tensor) for tensor in tables} <= {id(tensor) for tensor in held}
    read(model, cache, tokens[:, 141:149])
    assert all(map(torch.equal, frames_of(cache), learned))

    again = RotorQuantCache(model, **OPTIONS)
    read(model, again, tokens[:, :140])
    cache.reset()
    assert not frames_of(cache)
    read(model, cache, tokens[:, :140])
    assert torch.equal(read(model, cache, tokens[:, :1]), read(model, again, tokens[:, :1]))


@pytest.mark.parametrize("length", [140, 141])
def test_a_file_holds_what_was_learned(length: int, tmp_path: Path) -> None:
    model, tokens = gemma(), random_tokens(1, 160)
    cache = RotorQuantCache(model, **OPTIONS)
    read(model, cache, tokens[:, :140])
    if length > 140:
        read(model, cache, tokens[:, 140:141])
    cache.save(tmp_path / "cache")
    loaded = RotorQuantCache.load(tmp_path / "cache", model)
    for low in range(length, 160):
        one = tokens[:, low : low + 1]
        assert torch.equal(read(model, loaded, one), read(model, cache, one))


def test_a_long_prompt_replaces_what_few_rows_told() -> None:
    model, tokens = gemma(), random_tokens(1, 1400)
    cache = RotorQuantCache(model, **OPTIONS)
    read(model, cache, tokens[:, :120])
    read(model, cache, tokens[:, 120:121])
    few, packed = frames_of(cache), cache.packed_tokens
    assert few and packed
    read(model, cache, tokens[:, 121:])
    read(model, cache, tokens[:, :1])

    assert not all(torch.equal(one, two) for one, two in zip(few, frames_of(cache), strict=True))
    # What moved to the new frame is still what was read: 3 bits, twice
    (layer,) = [each for each in cache.layers if isinstance(each, GlobalLayer)]
    exact = RotorQuantCache(model, 16, **SMALL_WINDOW)
    read(model, exact, tokens[:, :120])
    (other,) = [each for each in exact.layers if isinstance(each, GlobalLayer)]
    value, wanted = layer.dense()[1][:, :, :64], other.dense()[1][:, :, :64]
    assert (value - wanted).norm() < 0.35 * wanted.norm()


def test_a_mark_leads_back_to_the_frames_that_were_replaced() -> None:
    model, tokens = gemma(), random_tokens(1, 1400)
    cache = RotorQuantCache(model, **OPTIONS)
    read(model, cache, tokens[:, :120])
    read(model, cache, tokens[:, 120:121])
    mark, few = cache.mark(), frames_of(cache)
    stored = stored_in(cache)
    read(model, cache, tokens[:, 121:])
    read(model, cache, tokens[:, :1])
    assert not all(map(torch.equal, frames_of(cache), few))
    cache.rewind(mark)
    assert all(map(torch.equal, frames_of(cache), few))
    assert all(map(torch.equal, stored_in(cache), stored))


@pytest.mark.parametrize("make", [gemma, llama])
def test_after_a_rewind_past_the_first_pack_a_document_is_stored_as_if_it_came_first(
    make: Any,
) -> None:
    """The same tokens, learned from twice, give the same bits."""
    model, tokens = make(), random_tokens(1, 150)
    cache = RotorQuantCache(model, **OPTIONS)
    read(model, cache, tokens[:, :20])
    mark = cache.mark()
    found = []
    for _ in range(2):
        read(model, cache, tokens[:, 20:140])
        read(model, cache, tokens[:, 140:141])
        assert frames_of(cache)
        found.append(stored_in(cache))
        cache.rewind(mark)
        assert not frames_of(cache)
    assert all(map(torch.equal, *found))


def test_rows_of_a_batch_share_a_frame_and_beams_keep_it() -> None:
    model, tokens = gemma(), random_tokens(2, 150)
    cache = RotorQuantCache(model, **OPTIONS)
    read(model, cache, tokens[:, :140])
    read(model, cache, tokens[:, 140:141])
    frames, stored = frames_of(cache), stored_in(cache)
    cache.reorder_cache(torch.tensor([1, 1]))
    assert frames and all(map(torch.equal, frames_of(cache), frames))
    for after, before in zip(stored_in(cache), stored, strict=True):
        assert torch.equal(after, before[[1, 1]])


def test_fewer_bits_keep_what_was_learned_and_sixteen_are_learned_from() -> None:
    model, tokens = gemma(), random_tokens(1, 150)
    exact, four = (RotorQuantCache(model, bits, **SMALL_WINDOW) for bits in (16, 4))
    for cache in (exact, four):
        read(model, cache, tokens[:, :140])
        read(model, cache, tokens[:, 140:141])
        assert bool(frames_of(cache)) == (cache is four)
        cache.repack(3)
    assert len(frames_of(exact)) == len(frames_of(four)) == 4
