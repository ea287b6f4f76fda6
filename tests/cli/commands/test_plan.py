"""`rqchat plan` and `rqchat doctor` over faked machines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
from tokenizers import Tokenizer

import rqchat
from rqchat.engine.planning.devices import DeviceInfo
from tests.cli.conftest import Run
from tests.helpers import pdf_bytes

CPU = DeviceInfo("a processor", 16 * 10**9, 8 * 10**9, "main memory", "cpu")
GPU = DeviceInfo("a card", 24 * 10**9, 23 * 10**9, "nvidia-smi", "cuda:0")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RQCHAT_MODEL", raising=False)
    monkeypatch.delenv("RQCHAT_VRAM", raising=False)


def test_plan_json_has_the_contracts_keys(run: Run) -> None:
    result = run("plan", "--vram", "24GiB", "--context", "4096", "--json")
    record = json.loads(result.out)
    assert result.code == 0
    assert list(record) == ["model", "device", "chosen", "candidates", "reason"]
    assert record["model"] == "google/gemma-4-31B-it"
    assert record["device"] == {
        "name": "planned GPU",
        "total_bytes": 24 * 2**30,
        "free_bytes": 24 * 2**30,
        "source": "--vram",
    }
    keys = ["weights", "weight_bits", "kv_bits", "context", "chunk", "bytes"]
    parts = ["weights", "kv_global", "kv_sliding", "workspace", "reserve", "total", "host"]
    parts += ["allocator", "reserved"]
    for candidate in (record["chosen"], *record["candidates"]):
        assert list(candidate) == keys
        assert list(candidate["bytes"]) == parts
        assert candidate["context"] == 4096
    assert record["chosen"] in record["candidates"]


def test_every_way_that_fits_is_a_row_and_the_chosen_one_is_marked(run: Run) -> None:
    arguments = ["--vram", "24GiB", "--weights", "int4", "--context", "4096"]
    result = run("plan", *arguments, "--all")
    chosen = json.loads(run("plan", *arguments, "--json").out)["chosen"]
    marked = [line.split() for line in result.out.splitlines() if line.startswith(">")]
    assert [row[:5] for row in marked] == [[">", "int4", "16", str(chosen["kv_bits"]), "4,096"]]


def test_plan_for_a_size_names_the_card_whose_speed_it_shows(run: Run) -> None:
    assert "if it is an RTX 4090; --bandwidth is for another" in " ".join(
        run("plan", "--vram", "24GiB").out.split()
    )
    given = " ".join(run("plan", "--vram", "22GiB", "--bandwidth", "936").out.split())
    assert "at 936 GB/s of memory" in given
    every = " ".join(run("plan", "--vram", "22GiB", "--bandwidth", "936", "--all").out.split())
    assert "at most: 936 GB/s of memory over what a token reads" in every


@pytest.mark.parametrize("size", ["8", "12", "20", "24", "48"])
def test_a_plan_shows_few_ways_and_one_that_is_taken(run: Run, size: str) -> None:
    shown = run("plan", "--model", "auto", "--vram", size)
    taken = json.loads(run("plan", "--model", "auto", "--vram", size, "--json").out)["chosen"]
    rows = [line for line in shown.out.splitlines() if re.search(r"\d-bit, KV \d", line)]
    marked = [line.split() for line in rows if line.startswith("●")]

    assert shown.code == 0
    assert 2 <= len(rows) <= 6
    assert [row[1:4] for row in marked] == [
        [f"{taken['weight_bits']}-bit,", "KV", str(taken["kv_bits"])]
    ]
    assert f"{taken['context']:,}" in marked[0]
    assert any("smaller model" in row or "larger model" in row for row in rows)


def test_plan_that_does_not_fit_exits_3(run: Run) -> None:
    result = run("plan", "--model", "31b", "--vram", "4GiB")
    assert (result.code, result.out) == (3, "")
    assert result.err.count("\n") == 1


def test_plan_takes_the_card_from_the_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RQCHAT_VRAM", "80GB")
    assert json.loads(run("plan", "--json").out)["device"]["total_bytes"] == 80 * 10**9


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 0, "tokens left for questions"),
        (["--context", "70"], 4, "do not fit into a context of 70"),
    ],
)
def test_plan_counts_a_document(
    run: Run, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    book = tmp_path / "book.txt"
    book.write_text("one two three four five six seven. " * 3)
    tokenizer = Tokenizer.from_file(str(Path(rqchat.__file__).parent / "pocket/tokenizer.json"))
    expected = len(tokenizer.encode(book.read_text(), add_special_tokens=False).ids)

    result = run("plan", "--model", "pocket", "--device", "cpu", "--doc", str(book), *arguments)

    assert result.code == code
    assert f"book.txt: {expected} tokens" in result.err
    assert said in result.err


def test_plan_counts_what_ask_would_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one two three")
    (tmp_path / "contract.pdf").write_bytes(pdf_bytes("one two three", ""))
    documents = ["--doc", str(tmp_path / "contract.pdf"), "--doc", str(tmp_path)]
    result = run("plan", "--model", "pocket", "--device", "cpu", *documents)
    assert result.code == 0
    assert re.search(r"contract\.pdf: \d+ tokens", result.err)
    assert re.search(r"page 2 of contract\.pdf: \d+ tokens", result.err)
    assert re.search(r"a\.py: \d+ tokens", result.err)


def test_plan_says_how_to_get_a_tokenizer(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "a.txt").write_text("text")
    result = run("plan", "--vram", "24GiB", "--doc", str(tmp_path / "a.txt"))
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "rqchat pull google/gemma-4-31B-it --tokenizer" in result.err


def test_a_bare_number_is_gib(run: Run) -> None:
    assert run("plan", "--vram", "24").out == run("plan", "--vram", "24GiB").out


@pytest.mark.parametrize("size", ["banana", "0GiB", "-3GB"])
def test_plan_of_no_size_is_wrong_usage(run: Run, size: str) -> None:
    result = run("plan", f"--vram={size}")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "such as 24GiB" in result.err


def test_the_cards_of_the_readme_hold_what_it_says(run: Run) -> None:
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) GiB \| (.*) \|$", readme, re.M)
    assert len(rows) == 12
    for size, said in rows:
        found = json.loads(run("plan", "--vram", f"{size}GiB", "--json").out)
        chosen = found["chosen"]
        model = found["model"].removeprefix("google/gemma-4-").removesuffix("-it")
        assert said == " | ".join(
            [
                model,
                f"{chosen['weight_bits']} bits",
                f"{chosen['kv_bits']} bits",
                f"{chosen['context']:,}",
                f"{chosen['bytes']['total'] / 2**30:.1f} GiB",
            ]
        )


def test_users_beyond_one_card_get_a_command(run: Run) -> None:
    result = run("plan", "--users", "20", "--context", "128K")
    assert result.code == 0, result.err
    command = next(line for line in result.out.splitlines() if line.startswith("vllm serve"))
    assert command.startswith("vllm serve google/gemma-4-31B-it --tensor-parallel-size 4 ")
    assert "--max-model-len 131072 --max-num-seqs 20 " in command
    words = ("--weights", "int4", "--kv-bits", "8", "--vram", "80GiB", "--json")
    record = json.loads(run("plan", "--users", "20", "--context", "128K", *words).out)
    (way,) = record["ways"]
    assert (way["count"], way["tensor_parallel"]) == (2, 2)
    assert "--kv-cache-dtype fp8" in "".join(record["commands"])
    assert run("plan", "--users", "2", "--weights", "nf4").code == 2
    assert run("plan", "--users", "2", "--context", "many").code == 2
