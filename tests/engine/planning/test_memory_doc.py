"""docs/memory.md: every formula gives its number, and every number is what the plan counts."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from rqchat.engine.planning.devices import planned_card
from rqchat.engine.planning.formats import weights_of
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.memory import GPU_CONTEXT_BYTES, LEFT_FREE_BYTES, Budget, Economy
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import KV_BITS, WEIGHTS, Settings
from rqchat.errors import DoesNotFitError

_SHAPE = ModelShape.from_config(known_models()[0].config)
_MIXTURE = next(
    ModelShape.from_config(m.config) for m in known_models() if m.name.endswith("26B-A4B-it")
)
_BUDGET = Budget(_SHAPE, True, 512, 280)
_CONTEXT_TOKENS = 262_144


def _rows(columns: int) -> list[list[str]]:
    """The cells of the tables with so many columns, headings left out."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "memory.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if len(row) == columns and row[0] not in ("part", "card")]


def _value(formula: str) -> int:
    text = formula.strip("`")
    assert re.fullmatch(r"[\d_+*/() ]+", text), text
    return int(eval(text, {"__builtins__": {}}))


def _planned() -> dict[str, int]:
    """What the plan counts, by the names of the page."""
    bf16, int4 = weights_of("bf16"), weights_of("int4")
    tables = {bits: _BUDGET.weight_bytes(bf16, bits) - 2 * _rest() for bits in (16, 8)}
    found = {}
    for name in WEIGHTS:
        linears = _BUDGET.weight_bytes(weights_of(name), 16) - 2 * (_SHAPE.embedding + _others())
        found[f"linears {name}"] = linears
    found |= {f"embedding and head, {bits} bits": size for bits, size in tables.items()}
    found |= {"image tower": 2 * _SHAPE.vision, "norms": 2 * _SHAPE.norms}
    for bits in KV_BITS:
        used = _BUDGET.of(int4, bits, Economy(16, 16), _CONTEXT_TOKENS)
        found[f"global KV, {bits} bits"] = used.kv_global
    for bits in (16, 8):
        used = _BUDGET.of(int4, 4, Economy(16, bits), _CONTEXT_TOKENS)
        found[f"sliding KV, {bits} bits"] = used.kv_sliding
    return found


def _others() -> int:
    return _SHAPE.vision + _SHAPE.norms


def _rest() -> int:
    return _SHAPE.linears + _others()


def test_experts_take_what_the_page_says() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "memory.md").read_text(encoding="utf-8")
    shown, formula = re.findall(r"4 bits take ([\d,]+) bytes for the experts,\s`(.+?)`", page)[0]

    experts = sum(
        m.count * weights_of("int4").matrix_bytes(m.rows, m.columns) for m in _MIXTURE.experts
    )
    assert f"{_value(formula):,}" == f"{experts:,}" == shown


def test_every_formula_gives_its_number() -> None:
    rows = _rows(4)

    assert len(rows) == 32
    for part, formula, shown, _ in rows:
        assert f"{_value(formula):,}" == shown, part


def test_weights_and_caches_are_what_the_plan_counts() -> None:
    shown = {row[0]: _value(row[1]) for row in _rows(4)}
    planned = _planned()

    assert {part: shown[part] for part in planned} == planned


def test_workspace_and_reserve_are_the_sum_of_their_rows() -> None:
    shown = {row[0]: _value(row[1]) for row in _rows(4)}

    for weights, bits in itertools.product(("bf16", "int4"), (4, 16)):
        mlp = shown[f"MLP of a chunk, {'bf16' if weights == 'bf16' else 'packed weights'}"]
        attention = shown[f"attention of a chunk, {'16-bit' if bits == 16 else 'packed'} KV"]
        largest = max(mlp, attention, shown["a picture of 280 tokens"])
        space = _BUDGET.workspace(weights_of(weights), bits, _CONTEXT_TOKENS)
        phases = mlp, attention, shown["a picture of 280 tokens"]
        assert (space.mlp_bytes, space.attention_bytes, space.picture_bytes) == phases
        used = _BUDGET.of(weights_of(weights), bits, Economy(), _CONTEXT_TOKENS)
        always = ("logits", "cuBLAS", "captured decode step", "prompt chunk, not packed yet")
        assert used.workspace == largest + sum(shown[part] for part in always)
        assert used.allocator == shown["allocator's begun segments"] + largest // 2
        outside = shown["CUDA context"] + shown["left free on purpose"]
        assert used.reserve == outside + used.allocator
        assert used.reserved == used.total - outside
    assert shown["CUDA context"] == GPU_CONTEXT_BYTES
    assert shown["left free on purpose"] == LEFT_FREE_BYTES


@pytest.mark.parametrize("row", _rows(9) + _rows(10), ids=lambda row: f"{row[0]} {len(row)}")
def test_the_tables_of_cards_are_what_is_planned(row: list[str]) -> None:
    """Nine columns for the 31B; ten for the 26B, the last but one the weights'."""
    card = planned_card(int(row[0].split()[0]) * 2**30)
    shape = _SHAPE if len(row) == 9 else _MIXTURE
    try:
        chosen = make_plan(shape, card, Settings()).chosen
    except DoesNotFitError:
        assert row[1] == "does not fit"
        return

    bits = chosen.head_bits, chosen.kv_bits, chosen.sliding_bits, chosen.chunk_tokens
    sizes = [chosen.bytes.total] if shape is _SHAPE else [chosen.bytes.weights, chosen.bytes.total]
    assert row[1:] == [
        chosen.weights,
        *map(str, bits),
        f"{chosen.bytes.host:,}",
        f"{chosen.context_tokens:,}",
        *(f"{size:,} ({size / 2**30:.1f} GiB)" for size in sizes),
    ]
