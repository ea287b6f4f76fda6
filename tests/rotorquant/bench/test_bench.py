"""The fidelity bench: its numbers against theory, its report, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence as Lines
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rotorquant.bench.__main__ import main
from rotorquant.bench.synthetic import measure, theory
from rotorquant.bench.vectors import KINDS
from rotorquant.exceptions import ConfigError
from rotorquant.fidelity.kl_divergence import ModelRun
from rotorquant.fidelity.methods import Method, methods
from rotorquant.fidelity.scored_text import Sequence, scored_tokens, write_sequence
from tests.rotorquant.models import VOCABULARY, gemma, random_tokens


def method(name: str, bits: int) -> Method:
    (found,) = (m for m in methods([bits]) if (m.name, m.bits) == (name, bits))
    return found


def report(output: str) -> tuple[Lines[str], dict[str, Any]]:
    *table, last = output.splitlines()
    return table, json.loads(last)


@pytest.mark.parametrize(
    ("name", "bits", "size"),
    # 512 values and a scale of 2 bytes per vector; both vectors of K and V.
    [
        ("bf16 K+V", 16, 2048),
        ("q8_0 K+V", 8, 2 * (512 + 32)),
        ("q4_0 K+V", 4, 2 * (256 + 32)),
        ("turbo K+V", 3, 2 * 194),
        ("turbo-qjl K+V", 3, 2 * 194 + 2),
        ("aligned+text", 6, 386),
    ],
)
def test_bytes_are_counted_with_all_overhead(name: str, bits: int, size: int) -> None:
    row = measure(method(name, bits), 300)
    assert row.token_bytes == size
    assert row.bits_per_value == 8 * size / (1024 if "K+V" in name else 512)


@pytest.mark.parametrize("name", ["turbo-wht K+V", "planar", "iso", "rotor", "aligned"])
def test_no_rotation_differs_from_another_on_unit_vectors(name: str) -> None:
    row = measure(method(name, 4), 1000)
    assert row.errors["unit"].vector == pytest.approx(theory(4), rel=0.02)


def test_difficult_vectors_rank_the_methods_as_published() -> None:
    rows = {
        name: measure(method(name, 3), 1000).errors
        for name in ("planar", "iso", "hadamard", "aligned", "aligned+offset", "aligned+text")
    }
    error = {name: {kind: e.vector for kind, e in row.items()} for name, row in rows.items()}
    # Published for 8 channels x 20 at 3 bits: planar .441, iso .358, Hadamard .031.
    assert error["hadamard"]["outliers"] == pytest.approx(0.031, rel=0.05)
    assert error["planar"]["outliers"] > error["iso"]["outliers"] > 0.2
    assert error["hadamard"]["outliers"] < error["aligned"]["outliers"] < error["iso"]["outliers"]
    # With a mean of 4 times the spread: an offset brings back the error of no mean.
    assert error["planar"]["offset"] > 0.4
    assert error["aligned+offset"]["offset"] == pytest.approx(theory(3), rel=0.05)
    # Key scales inverse to query scales: only a balance per channel helps.
    logit = {name: row["inverse"].logit for name, row in rows.items()}
    assert logit["hadamard"] > 0.3
    assert logit["aligned+text"] < 0.04


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fidelity", "--bits", "4", "--vectors", "100", "--only", "planar", "bf16"]) == 0
    table, data = report(capsys.readouterr().out)
    assert [(row["name"], row["bits"]) for row in data["synthetic"]] == [
        ("bf16", 16),
        ("planar", 4),
    ]
    assert set(data["synthetic"][0]["errors"]) == set(KINDS)
    assert data["model"] == []
    assert any(line.startswith("planar") for line in table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 4 with a tokenizer whose words are numbers."""
    path: Path = tmp_path_factory.mktemp("model")
    gemma(torch.bfloat16).save_pretrained(path)
    words = {str(index): index for index in range(VOCABULARY - 1)} | {"<bos>": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>").save_pretrained(path)
    return path


def text_of(*lengths: int) -> str:
    tokens = (random_tokens(1, length, seed=length)[0].tolist() for length in lengths)
    return " ".join("<bos> " + " ".join(map(str, ids)) for ids in tokens)


def test_a_model_is_scored_where_it_reads_packed_pages(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text(text_of(900, 200), encoding="utf-8")
    command = ["fidelity", "--vectors", "0", "--bits", "2", "6", "--tokens", "800"]
    names = ["bf16", "aligned", "aligned+text", "turbo K+V"]
    command += ["--model", str(folder), "--text", str(text), "--only", *names]
    assert main(command) == 0
    _, data = report(capsys.readouterr().out)
    rows = {(row["name"], row["bits"]): row for row in data["model"]}
    assert len(rows) == 8
    # 901 tokens, the last one predicts nothing; chunks of 64 from 704 on.
    assert {row["tokens"] for row in rows.values()} == {900 - 704}
    assert rows["bf16", 16]["mean"] == 0.0
    assert rows["bf16", 16]["stored"] == "bfloat16"
    assert rows["aligned", 2]["stored"] == "float16, uint8"
    assert rows["aligned", 2]["mean"] > 5 * rows["aligned", 6]["mean"] > 0
    assert 0 < rows["floor (stock)", 16]["mean"] < rows["aligned", 2]["mean"]
    assert rows["turbo K+V", 6]["token_bytes"] == 2 * rows["aligned", 6]["token_bytes"] == 2 * 26


def test_what_cannot_be_scored_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text(text_of(300, 300), encoding="utf-8")
    base = ["fidelity", "--vectors", "0", "--tokens", "200", "--text", str(text), "--model"]
    assert main([*base, str(tmp_path)]) == 1
    assert "no config.json" in capsys.readouterr().err
    assert main([*base, str(folder)]) == 1
    assert "after its first 704" in capsys.readouterr().err
    text.write_text(text_of(150), encoding="utf-8")
    assert main([*base, str(folder)]) == 1
    assert "more are needed to calibrate" in capsys.readouterr().err


def test_storage_of_another_form_than_named_stops_the_bench() -> None:
    """The check itself: a method of 4 bits on a cache that holds 16."""
    model = gemma()
    everything = torch.ones(800, dtype=torch.bool)
    run = ModelRun(
        model, [Sequence(random_tokens(1, 800)[0], everything)], random_tokens(1, 100)[0]
    )
    honest = run._cache
    run._cache = lambda method: honest(None if method is None else methods([4])[1])  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="planar is stored as {'float32'}"):
        run.score(method("planar", 4))


def test_only_the_models_own_turns_count_where_there_are_turns() -> None:
    ids = torch.tensor([1, 7, 8, 5, 5, 9, 7, 6, 5, 7, 8, 4, 9])
    given = scored_tokens(ids, begin=[7, 8], end=9)
    assert given.nonzero().flatten().tolist() == [2, 3, 4, 10, 11]
    assert scored_tokens(ids, begin=[2], end=9).all()


def test_a_model_writes_its_own_text() -> None:
    first, again, other = (write_sequence(gemma(), 40, seed).ids for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        ModelRun.open(tmp_path / "nowhere", None, 900, "cpu")
