"""Where chunks end, how tokens are drawn, and how they become text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rqchat.engine.events import TextDelta, ThoughtDelta
from rqchat.engine.generation.generate import chunk_ends
from rqchat.engine.generation.prompt import ImageSpan
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.generation.text_stream import TextWriter
from rqchat.engine.inputs.pictures import Picture
from rqchat.engine.settings import SamplingSettings
from tests.helpers import SPECIAL_TOKENS, byte_tokenizer

_PICTURE = Picture("p", 1, 1, Image.new("RGB", (1, 1)))


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[int, int, list[ImageSpan], int]:
    """Start, total, pictures, and a place where a chunk has to end."""
    spans, position = [], draw(st.integers(0, 5))
    for _ in range(draw(st.integers(0, 4))):
        end = position + draw(st.integers(1, 40))
        spans.append(ImageSpan(position, end, _PICTURE))
        position = end + draw(st.integers(1, 30))
    total = position + draw(st.integers(1, 60))
    outside = [n for n in range(total) if not any(s.start < n < s.end for s in spans)]
    return draw(st.sampled_from(outside)), total, spans, draw(st.sampled_from(outside))


@given(_layouts(), st.integers(1, 32))
def test_chunks_cover_the_prompt_and_split_no_picture(
    layout: tuple[int, int, list[ImageSpan], int], chunk_tokens: int
) -> None:
    start, total, spans, stop = layout

    ends = chunk_ends(start, total, chunk_tokens, spans, stops=(stop,))

    assert ends == sorted(set(ends))
    assert ends[-1] == total
    assert stop in ends or stop <= start
    assert not any(span.start < end < span.end for span in spans for end in ends)
    for low, high in zip([start, *ends], ends, strict=False):
        whole_picture = any(span.start == low and span.end == high for span in spans)
        assert high - low <= chunk_tokens or whole_picture


def test_no_chunk_is_needed_for_nothing() -> None:
    assert chunk_ends(7, 7, 4, [], stops=()) == []


def _next(sampler: Sampler, logits: torch.Tensor) -> int:
    token = int(sampler.draw(logits))
    sampler.accept(token)
    return token


def _shares(settings: SamplingSettings, logits: torch.Tensor, draws: int) -> list[float]:
    sampler = Sampler(settings)
    counts = [0] * len(logits)
    for _ in range(draws):
        counts[_next(sampler, logits)] += 1
    return [count / draws for count in counts]


_PROBABILITIES = torch.tensor([0.1, 0.4, 0.3, 0.15, 0.05])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, [0.1, 0.4, 0.3, 0.15, 0.05]),
        ({"top_k": 2}, [0, 4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.75}, [0, 0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0]),
        ({"min_p": 0.3}, [0, 0.4 / 0.85, 0.3 / 0.85, 0.15 / 0.85, 0]),
        ({"temperature": 0.5}, [0.01, 0.16, 0.09, 0.0225, 0.0025]),
        ({"temperature": 1e-9}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_by_their_probabilities(
    settings: dict[str, float], wanted: list[float]
) -> None:
    asked = SamplingSettings(**{"top_p": 1.0, "top_k": 0, "seed": 7, **settings})  # type: ignore[arg-type]

    found = _shares(asked, _PROBABILITIES.log(), 4000)

    expected = [share / sum(wanted) for share in wanted]
    assert [f > 0 for f in found] == [e > 0 for e in expected]
    assert found == pytest.approx(expected, abs=0.03)  # four standard deviations of 4,000 draws


def test_a_seed_repeats_and_no_seed_is_told() -> None:
    logits = torch.randn(200, generator=torch.Generator().manual_seed(0))

    def draws(seed: int | None) -> tuple[int, list[int]]:
        sampler = Sampler(SamplingSettings(seed=seed))
        return sampler.seed, [_next(sampler, logits) for _ in range(30)]

    seed, first = draws(None)
    assert draws(seed) == (seed, first)
    assert draws(seed + 1)[1] != first


def test_a_draw_is_the_same_until_it_is_accepted() -> None:
    """A step that ran out of memory is made again, and its token with it."""
    logits = torch.zeros(1000)
    sampler, steady = (Sampler(SamplingSettings(temperature=1, seed=3, top_k=0)) for _ in range(2))
    for _ in range(5):
        first = int(sampler.draw(logits))
        assert int(sampler.draw(logits)) == first == _next(steady, logits)
        sampler.accept(first)


@settings(max_examples=50)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    st.integers(0, 2**31),
    st.sampled_from([0, 1, 5]),
    st.floats(0.01, 1.0),
)
def test_what_is_drawn_was_possible(
    values: list[float], seed: int, top_k: int, top_p: float
) -> None:
    logits = torch.tensor([*values, float("-inf")])
    asked = SamplingSettings(temperature=1.0, seed=seed, top_k=top_k, top_p=top_p)
    token = int(Sampler(asked).draw(logits))
    kept = sorted(values, reverse=True)[: top_k or None]
    assert token < len(values)
    assert values[token] >= kept[-1]


def _written(tokens: list[int]) -> tuple[list[str], list[str], TextWriter]:
    """Answer pieces, thought pieces and the writer."""
    writer = TextWriter(byte_tokenizer(), dict(enumerate(SPECIAL_TOKENS)))
    deltas = [delta for token in tokens for delta in writer.add(token)]
    return (
        [delta.text for delta in deltas if isinstance(delta, TextDelta)],
        [delta.text for delta in deltas if isinstance(delta, ThoughtDelta)],
        writer,
    )


def _ids(text: str) -> list[int]:
    return list(byte_tokenizer()(text, add_special_tokens=False)["input_ids"])


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffd<"), max_size=12))
def test_characters_come_whole(text: str) -> None:
    pieces, _, writer = _written(_ids("." + text))

    assert "".join(pieces) == writer.answer == "." + text
    assert all("\ufffd" not in piece for piece in pieces)


def test_half_a_character_at_the_end_is_not_shown() -> None:
    pieces, _, _ = _written(_ids("a😀")[:-1])

    assert "".join(pieces) == "a"


def test_thoughts_and_control_tokens_are_not_part_of_the_answer() -> None:
    answer, thought, writer = _written(
        _ids("<|channel>thought\nRed é.<channel|>It is<|think|> red.")
    )

    assert ("".join(answer), "".join(thought)) == ("It is red.", "Red é.")
    assert writer.answer == "It is red."
