"""Answers held to JSON schemas: always valid, whatever the model would rather say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rqchat.engine.generation.json_constraint import Constraints
from rqchat.engine.generation.json_schema import read_schema
from rqchat.engine.generation.sampling import Sampler
from rqchat.engine.generation.text_stream import CHANNEL_END, CHANNEL_START
from rqchat.engine.settings import SamplingSettings
from rqchat.errors import InputError, RqchatError, UsageError
from tests.device_rules import DeviceRules
from tests.growth import growth
from tests.helpers import byte_tokenizer

TOKENIZER: Any = byte_tokenizer()
VOCABULARY = len(TOKENIZER)
STOPS = (1, 4)  # <eos> and <turn|>
CONSTRAINTS = Constraints(TOKENIZER, STOPS, VOCABULARY)
THOUGHT_START, THOUGHT_END = (
    TOKENIZER.convert_tokens_to_ids(token) for token in (CHANNEL_START, CHANNEL_END)
)


def _write_constant(characters: int) -> None:
    """An answer that can only be one text, token by token."""
    constraint = CONSTRAINTS.for_schema(json.dumps({"const": "x" * characters}), thinking=False)
    logits, tokens = torch.zeros(VOCABULARY), []
    while not constraint.is_over:
        tokens.append(int(constraint.mask(logits).argmax()))
        constraint.accept(tokens[-1])
    assert json.loads(TOKENIZER.decode(tokens)) == "x" * characters


def test_a_long_constant_costs_each_token_little() -> None:
    """The library tokenizes all that is to come for every token, which is skipped."""
    assert growth(int, _write_constant, 1_000) < 3


def test_a_schema_that_would_take_minutes_is_refused() -> None:
    schema = {"properties": {f"p{index}": {"type": "null"} for index in range(10_000)}}

    with pytest.raises(UsageError, match="has 10,002 objects; at most 10,000"):
        read_schema(json.dumps(schema))


_integers = st.integers(1 - 2**53, 2**53 - 1)
_leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.lists(st.one_of(st.text(max_size=4), _integers, st.none()), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
    st.tuples(st.integers(-50, 50), st.integers(0, 40)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
    ),
    st.integers(0, 5).map(lambda most: {"type": "string", "maxLength": most}),
    st.just({"type": "string", "pattern": "^[a-c]{2}$"}),
)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(properties: dict[str, Any], wanted: set[int]) -> dict[str, Any]:
        names = list(properties)
        required = [name for i, name in enumerate(names) if i in wanted]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    properties = st.dictionaries(st.text(max_size=4), inner, max_size=3)
    return st.builds(build, properties, st.sets(st.integers(0, 2)))


def _arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    sizes = st.tuples(st.integers(0, 2), st.integers(0, 2))
    return st.builds(
        lambda items, size: {
            "type": "array",
            "items": items,
            "minItems": size[0],
            "maxItems": size[0] + size[1],
        },
        inner,
        sizes,
    )


_schemas = st.recursive(_leaves, lambda inner: _objects(inner) | _arrays(inner), max_leaves=5)


def _matches(value: Any, schema: dict[str, Any]) -> bool:
    """JSON schema's own rules (2020-12) for the keywords above."""
    if "enum" in schema:
        return any(value == one and type(value) is type(one) for one in schema["enum"])
    match schema["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            return is_whole and schema["minimum"] <= value <= schema["maximum"]
        case "string":
            is_text = isinstance(value, str) and len(value) <= schema.get("maxLength", 99)
            return is_text and (
                "pattern" not in schema or len(value) == 2 and set(value) <= {*"abc"}
            )
        case "array":
            fits = (
                isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
            )
            return fits and all(_matches(item, schema["items"]) for item in value)
    known = schema["properties"]
    return (
        isinstance(value, dict)
        and set(schema["required"]) <= value.keys() <= known.keys()
        and all(_matches(item, known[name]) for name, item in value.items())
    )


def _write(
    schema: dict[str, Any], seed: int, temperature: float, *, thinking: bool = False
) -> tuple[list[int], str]:
    """All tokens that a model of noise draws, and the text of those that are no thought."""
    constraint = CONSTRAINTS.for_schema(read_schema(json.dumps(schema)), thinking=thinking)
    sampler = Sampler(SamplingSettings(temperature=temperature, seed=seed), constraint)
    noise = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    while True:
        token = int(sampler.draw(torch.randn(VOCABULARY, generator=noise) * 3))
        sampler.accept(token)
        if token in STOPS:
            break
        tokens.append(token)
        assert len(tokens) < 5_000
    said = tokens[tokens.index(THOUGHT_END) + 1 :] if THOUGHT_END in tokens else tokens
    return tokens, TOKENIZER.decode(said, skip_special_tokens=False)


@settings(max_examples=60)
@given(schema=_schemas, seed=st.integers(0, 2**31), temperature=st.sampled_from([0.0, 1.0]))
def test_noise_becomes_json_that_matches(
    schema: dict[str, Any], seed: int, temperature: float
) -> None:
    _, text = _write({"type": "object", "properties": {"x": schema}, "required": ["x"],
                      "additionalProperties": False}, seed, temperature)  # fmt: skip
    value = json.loads(text)
    assert list(value) == ["x"]
    assert _matches(value["x"], schema)


def test_a_thought_comes_first_and_is_free_but_no_end() -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    seeds = [_write(schema, seed, 2.0, thinking=True) for seed in range(40)]
    thoughtful = [tokens for tokens, _ in seeds if tokens[0] == THOUGHT_START]
    assert 0 < len(thoughtful) < 40
    assert all(text == "{}" for _, text in seeds)
    assert all(THOUGHT_START not in _write(schema, seed, 2.0)[0] for seed in range(40))


def test_a_mask_goes_to_the_device_as_bits() -> None:
    constraint = CONSTRAINTS.for_schema('{"type": "object"}', thinking=False)
    with DeviceRules() as rules:
        found = constraint.mask(torch.empty(VOCABULARY, device="meta"))
    assert found.shape == (VOCABULARY,)
    assert 0 < rules.to_device_bytes <= VOCABULARY // 8 + 1


def test_logits_keep_their_device_and_those_allowed_their_value() -> None:
    more = Constraints(TOKENIZER, STOPS, VOCABULARY + 5)
    constraint = more.for_schema('{"enum": [true]}', thinking=False)
    logits = torch.arange(VOCABULARY + 5.0)
    masked = constraint.mask(logits)
    allowed = masked.isfinite().nonzero().flatten().tolist()
    assert {TOKENIZER.decode([token]) for token in allowed} == {"t"}
    assert masked[allowed].equal(logits[allowed])


@pytest.mark.parametrize(
    ("schema", "text", "is_over"),
    [
        ('{"type": "boolean"}', "true", True),
        ('{"type": "boolean"}', "tru", False),
        ('{"type": "integer"}', "12", False),  # may go on: 123
        ('{"type": "string"}', '"a"', True),
        ('{"type": "array", "items": {"type": "null"}}', "[null]", True),
    ],
)
def test_it_is_over_when_nothing_can_follow(schema: str, text: str, is_over: bool) -> None:
    constraint = CONSTRAINTS.for_schema(read_schema(schema), thinking=False)
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        assert not constraint.is_over
        constraint.accept(token)
    assert constraint.is_over is is_over


_LISTED = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "text", "allowed"),
    [
        (_LISTED, '{"a": 1}', True),
        (_LISTED, '{"a": 1, "b": 2}', False),
        (_LISTED, '{"a": 9007199254740991}', True),
        (_LISTED, '{"a": 88888888888888888888', False),
        (_LISTED | {"additionalProperties": True}, '{"a": 1, "b": 2}', True),
        (_LISTED | {"required": ["a", "b"]}, '{"a": 1, "b": 2}', True),
        (
            {"allOf": [_LISTED, {"properties": {"b": {}}, "required": ["b"]}]},
            '{"a": 1, "b": 2}',
            True,
        ),
        ({"type": "object"}, '{"b": 2}', True),
        (
            {"type": "object", "properties": {"type": {"const": "integer"}}},
            '{"type": "integer"}',
            True,
        ),
        ({"type": "integer", "minimum": 0}, "88888888888888888888", True),
        ({"type": "array", "items": _LISTED}, '[{"a": 1, "b"', False),
        ({"$defs": {"x": _LISTED}, "$ref": "#/$defs/x"}, '{"a": 1, "b"', False),
    ],
)
def test_nothing_is_added_that_the_schema_does_not_list(
    schema: dict[str, Any], text: str, allowed: bool
) -> None:
    """A model that may add properties and digits may never end."""
    constraint = CONSTRAINTS.for_schema(read_schema(json.dumps(schema)), thinking=False)
    flat = torch.zeros(VOCABULARY)
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        if constraint.mask(flat)[token].isinf():
            assert not allowed
            return
        constraint.accept(token)
    assert allowed


def test_a_schema_that_nothing_matches_is_a_sentence() -> None:
    constraint = CONSTRAINTS.for_schema(read_schema('{"$ref": "#"}'), thinking=False)
    with pytest.raises(RqchatError, match="no JSON can match it") as raised:
        constraint.mask(torch.zeros(VOCABULARY))
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"type": "strin"}', "Invalid type: strin"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"type": "string", "format": "colour"}', "Unknown format: colour"),
        ('{"$ref": "https://example.com/schema"}', "cannot be guaranteed"),
        ('{"enum": []}', "Unsatisfiable"),
        ('{"x-guidance": {"lenient": true}, "not": {}}', "cannot be guaranteed"),
        ('{"type": ', "--schema is no JSON"),
        ('{"const": 9007199254740993}', "integers beyond 9007199254740991"),
        (" ", "--schema is empty"),
    ],
)
def test_what_cannot_be_guaranteed_is_a_sentence(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_schema(given)


def test_a_schema_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object"}', encoding="utf-8-sig")
    assert json.loads(read_schema(str(path))) == {"type": "object"}
    path.write_text('["no object"]')
    with pytest.raises(UsageError, match="has to be an object"):
        read_schema(str(path))
    with pytest.raises(InputError, match="does not exist"):
        read_schema(str(tmp_path / "none.json"))
