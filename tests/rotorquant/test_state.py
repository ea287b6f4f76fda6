"""Going back, and calls that do not fit what the cache holds."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
import torch
from transformers import StaticCache

from rotorquant import Mark, RotorQuantCache
from rotorquant.exceptions import (
    CacheStateError,
    CapacityError,
    NonFiniteError,
    RotorQuantError,
    UnsupportedModelError,
)
from rotorquant.layers import sliding_ring
from rotorquant.layers.buffers import TokenBuffer
from rotorquant.layers.packed_buffer import PackedBuffer
from tests.rotorquant.models import (
    IMAGE_TOKEN,
    SMALL_WINDOW,
    gemma,
    gemma_with_images,
    llama,
    random_tokens,
    read,
    stored_in,
)


@pytest.mark.parametrize("sliding_bits", [8, 16])
def test_rewinding_gives_the_same_answer_to_the_bit(sliding_bits: int) -> None:
    model, tokens = gemma(), random_tokens(2, 300)
    cache = RotorQuantCache(model, bits=4, sliding_bits=sliding_bits, **SMALL_WINDOW)
    read(model, cache, tokens[:, :100])
    mark = cache.mark()
    assert (mark.length, mark.nbytes) == (100, 0)
    first = [read(model, cache, part) for part in tokens[:, 100:200].split(7, dim=1)]
    for _ in range(2):
        cache.rewind(mark)
        assert cache.get_seq_length() == 100
        again = [read(model, cache, part) for part in tokens[:, 100:200].split(7, dim=1)]
        assert torch.equal(torch.cat(first, 1), torch.cat(again, 1))
    assert mark.nbytes > 0


def test_a_mark_of_the_empty_cache_empties_it() -> None:
    model, tokens = gemma(), random_tokens(2, 50)
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    mark = cache.mark()
    first = read(model, cache, tokens)
    cache.rewind(mark)
    assert torch.equal(read(model, cache, tokens), first)
    cache.rewind(mark)
    assert read(model, cache, tokens[:1]).shape[0] == 1


@pytest.mark.parametrize("undo", ["reset", "crop", "rewind", "reorder"])
def test_a_mark_that_does_not_hold_any_more_is_refused(undo: str) -> None:
    model = gemma()
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    read(model, cache, random_tokens(1, 10))
    early = cache.mark()
    read(model, cache, random_tokens(1, 2))
    late = cache.mark()
    if undo == "reset":
        cache.reset()
    elif undo == "crop":
        cache.crop(-1)
    elif undo == "rewind":
        cache.rewind(early)
    else:
        cache.reorder_cache(torch.zeros(1, dtype=torch.long))
    with pytest.raises(CacheStateError, match="mark at 12 tokens does not hold"):
        cache.rewind(late)


def test_a_mark_of_another_cache_is_refused() -> None:
    model = gemma()
    with pytest.raises(CacheStateError, match="another cache"):
        RotorQuantCache(model).rewind(RotorQuantCache(model).mark())


@pytest.mark.parametrize("left", [0, 5, 8, 20, 60, 79, 80])
def test_crop_keeps_the_first_tokens(left: int) -> None:
    """A decoder without sliding layers: into the sink, the packed tokens and the exact tail."""
    model, tokens = llama(), random_tokens(2, 160)
    cropped = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    for part in tokens[:, :80].split(20, dim=1):
        read(model, cropped, part)
    cropped.crop(left - 80)
    assert cropped.get_seq_length() == left
    model.config._attn_implementation = "eager"
    rest = torch.cat((tokens[:, :left], tokens[:, 100:130]), dim=1)
    with torch.no_grad():
        expected = model(rest).logits[:, left:]
    model.config._attn_implementation = "rotorquant"
    torch.testing.assert_close(read(model, cropped, rest[:, left:]), expected, atol=2e-5, rtol=0)


def test_a_sliding_window_goes_back_while_it_still_can() -> None:
    model, tokens = gemma(), random_tokens(1, 60)
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    read(model, cache, tokens[:, :16])
    cache.crop(-9)
    read(model, cache, tokens[:, 7:50])
    cache.crop(-1)
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        expected = model(tokens).logits[:, 49:]
    model.config._attn_implementation = "rotorquant"
    torch.testing.assert_close(read(model, cache, tokens[:, 49:]), expected, atol=2e-5, rtol=0)
    with pytest.raises(CacheStateError, match=r"mark\(\) and rewind\(\)"):
        cache.crop(-2)
    assert cache.get_seq_length() == 60


@pytest.mark.parametrize("number", [1, 7])
def test_a_positive_crop_is_refused(number: int) -> None:
    with pytest.raises(CacheStateError, match=rf"crop\({number}\)"):
        RotorQuantCache(gemma()).crop(number)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_nan_and_infinity_are_refused_and_the_cache_can_go_back(poison: float) -> None:
    model, tokens = gemma(), random_tokens(1, 40)
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    read(model, cache, tokens)
    mark = cache.mark()
    expected = read(model, cache, tokens)
    cache.rewind(mark)
    weight = model.model.layers[1].self_attn.k_norm.weight
    healthy = weight.detach().clone()
    weight.data[0] = poison
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        read(model, cache, tokens)
    weight.data.copy_(healthy)
    with pytest.raises(CacheStateError, match="layers hold 40 to 80 tokens"):
        read(model, cache, tokens)
    cache.rewind(mark)
    assert torch.equal(read(model, cache, tokens), expected)


def test_more_than_max_tokens_is_refused() -> None:
    model = gemma()
    cache = RotorQuantCache(model, max_tokens=50, **SMALL_WINDOW)
    read(model, cache, random_tokens(1, 50))
    with pytest.raises(CapacityError, match="1 tokens after 50 exceed max_tokens = 50"):
        read(model, cache, random_tokens(1, 1))


def test_another_batch_size_is_refused() -> None:
    model = gemma()
    cache = RotorQuantCache(model)
    read(model, cache, random_tokens(2, 5))
    with pytest.raises(CacheStateError, match="3 rows and the cache holds 2"):
        read(model, cache, random_tokens(3, 5))


def test_a_mask_of_the_chunk_alone_is_refused() -> None:
    model = gemma()
    cache = RotorQuantCache(model)
    read(model, cache, random_tokens(1, 5))
    with pytest.raises(CacheStateError, match="has 3 tokens; it needs all 8"):
        read(model, cache, random_tokens(1, 3), attention_mask=torch.ones(1, 3))


def test_a_mask_of_ones_own_is_refused() -> None:
    model = gemma()
    cache = RotorQuantCache(model)
    with pytest.raises(CacheStateError, match="no padding mask"):
        read(model, cache, random_tokens(1, 5), attention_mask=torch.zeros(1, 1, 5, 5))


def test_tokens_whose_positions_are_unknown_are_refused() -> None:
    cache = RotorQuantCache(gemma())
    vectors = torch.randn(1, 1, 4, 32)
    with pytest.raises(CacheStateError, match="positions of 4 new tokens after 0 are unknown"):
        cache.update(vectors, vectors, 2)


@pytest.mark.parametrize(
    ("types", "says"),
    [
        ([0] * 8 + [1] * 4, "boundary at token 10 splits a picture"),
        ([0] * 6 + [1] * 4, "boundary at token 7 splits a picture"),
        ([0, 1, 1], "has 3 tokens; with a picture it needs all 10"),
    ],
)
def test_a_chunk_that_splits_a_picture_is_refused(types: list[int], says: str) -> None:
    model = gemma_with_images()
    cache = RotorQuantCache(model)
    read(model, cache, random_tokens(1, 7))
    with pytest.raises(CacheStateError, match=says):
        read(model, cache, random_tokens(1, 3), mm_token_type_ids=torch.tensor([types]))
    assert IMAGE_TOKEN not in random_tokens(1, 3)


def test_a_static_cache_is_refused_by_name() -> None:
    model = gemma()
    RotorQuantCache(model)
    cache = StaticCache(config=model.config, max_cache_len=64)
    with pytest.raises(UnsupportedModelError, match="static cache"):
        read(model, cache, random_tokens(1, 5))


def test_every_refusal_is_one_kind_of_error() -> None:
    with pytest.raises(RotorQuantError):
        RotorQuantCache(gemma(), bits=1)


def test_inference_mode_and_no_grad_can_take_turns() -> None:
    model, tokens = gemma(), random_tokens(2, 120)
    cache = RotorQuantCache(model, bits=16, **SMALL_WINDOW)
    parts = []
    for number, part in enumerate(tokens.split(30, dim=1)):
        with torch.inference_mode(number % 2 == 0), torch.no_grad():
            parts.append(model(part, past_key_values=cache).logits)
            cache.reorder_cache(torch.arange(2))
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=0)


def test_gradients_are_not_kept_alive_by_the_cache() -> None:
    model = gemma()
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    for part in random_tokens(1, 80).split(40, dim=1):
        model(part, past_key_values=cache)
    mark = cache.mark()
    for count in (80, 1):  # a step packs what a chunk has left
        model(random_tokens(1, count), past_key_values=cache)
    copies = mark.copies
    assert len({id(state) for state in mark.states}) == 3
    assert len(copies) >= 5
    assert not any(rows.requires_grad for rows in copies)


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize("defer", ["window", "prompt", "none"])
@pytest.mark.parametrize("seed", range(2))
def test_any_way_back_to_a_mark_finds_all_as_it_was(seed: int, defer: str, drafts: bool) -> None:
    """Marks near to each other, crops, drafts and steps: what is stored is the same to the bit."""
    draw, model = random.Random(seed), gemma()
    options: dict[str, Any] = {**SMALL_WINDOW, "defer": defer, "sliding_bits": draw.choice([8, 16])}
    cache = RotorQuantCache(model, bits=4, max_tokens=400, **options)
    if drafts:
        cache.activate_past_recording()
    marks: list[tuple[Mark, list[torch.Tensor]]] = []
    for _ in range(40):
        what, length = draw.choice(["read"] * 4 + ["mark"] * 2 + ["rewind", "crop"]), draw.random()
        if what == "read" and cache.get_seq_length() < 300:
            count = draw.choice([1, 1, 1, 2, 9, 17, 40])
            read(model, cache, random_tokens(1, count, seed=draw.randrange(99)))
            cache.flush()
        elif what == "mark" and cache.get_seq_length():
            marks.append((cache.mark(draw.choice([None, "cpu"])), stored_in(cache)))
        elif what == "rewind" and marks:
            del marks[1 + int(length * len(marks)) :]
            cache.rewind(marks[-1][0])
            assert all(map(torch.equal, stored_in(cache), marks[-1][1]))
        elif what == "crop" and cache.get_seq_length() > 4:
            with suppress(CacheStateError):  # rings hold no more
                cache.crop(-draw.randrange(1, 4) if drafts else -1)
            marks = [each for each in marks if each[0].length <= cache.get_seq_length()]


def test_a_sliding_window_is_not_taken_back_twice_by_what_it_has_once() -> None:
    model = gemma()
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    read(model, cache, random_tokens(1, 50))
    cache.crop(-1)
    with pytest.raises(CacheStateError, match=r"mark\(\) and rewind\(\)"):
        cache.crop(-1)


def test_marks_take_other_memory_where_none_can_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    model, move, refused = gemma(), torch.Tensor.to, 0

    def refuses(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        nonlocal refused
        if options == {"non_blocking": True, "copy": True}:
            refused += 1
            raise RuntimeError("CUDA error: out of memory")
        return move(self, *args, **options)

    cache = RotorQuantCache(model, **SMALL_WINDOW)
    read(model, cache, random_tokens(1, 100))
    mark, stored = cache.mark("cpu"), stored_in(cache)
    monkeypatch.setattr(torch.Tensor, "to", refuses)
    for _ in range(3):
        read(model, cache, random_tokens(1, 30))
    assert refused > 0
    cache.rewind(mark)
    assert all(map(torch.equal, stored_in(cache), stored))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(PackedBuffer, "pack"), (TokenBuffer, "drop_front"), (sliding_ring, "append")],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_mark_leads_back_from_a_pass_that_ran_out_of_memory(
    kind: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = gemma()
    cache = RotorQuantCache(model, **SMALL_WINDOW)
    read(model, cache, random_tokens(1, 100))
    mark, stored = cache.mark("cpu"), stored_in(cache)
    read(model, cache, random_tokens(1, 9))
    whole = getattr(kind, name)

    def breaks_off(*args: Any) -> None:
        if name != "drop_front":
            whole(*args)
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(kind, name, breaks_off)
        for tokens in (1, *[9] * 9):  # the first step ends what is taken for one prompt
            read(model, cache, random_tokens(1, tokens))
    cache.rewind(mark)
    assert all(map(torch.equal, stored_in(cache), stored))
