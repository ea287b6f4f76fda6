"""Answers that follow JSON schemas over a large vocabulary, spelled Gemma's way."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from rqchat.bench.schema import made_up_tokenizer
from rqchat.engine.generation.json_constraint import Constraints
from rqchat.engine.generation.json_schema import read_schema
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.generation.text_stream import CHANNEL_START
from rqchat.engine.settings import SamplingSettings

_ENTRIES = 70_000  # more than 16 bits count; a quarter of Gemma's, which take four times as long


def _gemma_like() -> Any:
    """Tokens spelled Gemma's way, and some more that are added to them."""
    tokenizer: Any = made_up_tokenizer(_ENTRIES)
    added = ["<start_of_turn>", "<unused0>", "[MASK]"]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    texts = ["<table>", "\n\n", "[multimodal]"]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _gemma_like()


@pytest.fixture(scope="module")
def constraints(tokenizer: Any) -> Constraints:
    stops = tokenizer.convert_tokens_to_ids(["<eos>", "<turn|>"])
    return Constraints(tokenizer, stops, len(tokenizer))


def _noise(tokenizer: Any, constraints: Constraints, schema: dict[str, Any], seed: int) -> Any:
    """What a model of noise says, read by Python's JSON; none of it may be a special token."""
    constraint = constraints.for_schema(read_schema(json.dumps(schema)), thinking=False)
    sampler = Sampler(SamplingSettings(temperature=1.0, seed=seed), constraint)
    noise = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    while not sampler.is_over:
        tokens.append(int(sampler.draw(torch.randn(len(tokenizer), generator=noise) * 3)))
        sampler.accept(tokens[-1])
        assert len(tokens) < 200
    assert not set(tokens) & set(tokenizer.all_special_ids)
    return json.loads(tokenizer.decode(tokens, skip_special_tokens=False))


def test_noise_over_a_large_vocabulary_becomes_json_too(
    tokenizer: Any, constraints: Constraints
) -> None:
    person = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "role": {"enum": ["owner", "été"]},
        },
        "required": ["name", "age", "role"],
        "additionalProperties": False,
    }
    for seed in range(3):
        value = _noise(tokenizer, constraints, person, seed)
        assert list(value) == ["name", "age", "role"]
        assert len(value["name"]) <= 20 and 0 <= value["age"] <= 150
        assert value["role"] in ("owner", "été")


@pytest.mark.parametrize(
    "text",
    [
        *("<pad>", "<eos>", "<turn|>", "<start_of_turn>", "<unused0>", "[MASK]", CHANNEL_START),
        *("<table>", "a [multimodal] b", "<0x41>", "▁x ▁", " a  b", "\n\n", "日本 👩", "<<pad>>"),
    ],
)
def test_what_is_spelled_like_a_token_stays_text(
    tokenizer: Any, constraints: Constraints, text: str
) -> None:
    assert _noise(tokenizer, constraints, {"enum": [text]}, seed=0) == text
    named = {"type": "object", "properties": {text: {"type": "null"}}, "required": [text]}
    assert _noise(tokenizer, constraints, named, seed=0) == {text: None}


@pytest.mark.parametrize(
    ("drawn", "fits"),
    [
        (["<0xC3>", "<0xA9>"], True),  # é
        (["<0xC3>", '"'], False),  # the first byte of two
        (["<0xA9>"], False),  # a second byte without its first
        (["<0xED>", "<0xA0>"], False),  # half of a surrogate pair
        (["<0x0A>"], False),  # a line end has to be escaped
        (["<0x41>", "▁", "a"], True),
        *((["a", token], False) for token in ("<pad>", "<start_of_turn>", "[MASK]", "<turn|>")),
    ],
)
def test_single_bytes_and_special_tokens_within_a_string(
    tokenizer: Any, constraints: Constraints, drawn: list[str], fits: bool
) -> None:
    """UTF-8 as Unicode 15, table 3-7, has it; strings as RFC 8259, section 7."""
    constraint = constraints.for_schema('{"type": "string"}', thinking=False)
    flat = torch.zeros(len(tokenizer))
    *before, last = tokenizer.convert_tokens_to_ids(['"', *drawn])
    for token in before:
        assert constraint.mask(flat)[token].isfinite()
        constraint.accept(token)
    assert bool(constraint.mask(flat)[last].isfinite()) == fits
