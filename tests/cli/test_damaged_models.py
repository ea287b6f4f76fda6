"""Damaged and hostile model files on the command line: one sentence, whatever they hold."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.fuzz.fuzz_models import gguf_bytes, safetensors_bytes
from tests.helpers import TEMPLATE, TINY_CONFIG

NESTED = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9) + 3000 * struct.pack("<IQ", 9, 1)
HEADER = '{"a": {"dtype": "F32", "shape": [%s], "data_offsets": [0, %s]}}'


@pytest.fixture(autouse=True)
def _at_a_home_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RQCHAT_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def copied_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _one_line(run: Run, *arguments: str) -> str:
    result = run(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1), result.err
    return result.err


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("text_config", "max_position_embeddings", "0", "max_position_embeddings is 0"),
        ("text_config", "max_position_embeddings", "-262144", "position_embeddings is -262144"),
        ("text_config", "hidden_size", "1e400", "hidden_size is inf; it takes whole numbers"),
        ("text_config", "num_hidden_layers", "1000000000", "whole numbers from 1 to 4,096"),
        ("text_config", "num_kv_shared_layers", "7", "num_kv_shared_layers is 7"),
        ("text_config", "num_attention_heads", "3", "cannot share 2 KV heads evenly"),
        ("text_config", "per_layer_config", '"x"', "per_layer_config is 'x', not an object"),
        ("text_config", "layer_types", "3", "cannot be used"),
        ("text_config", "attention_k_eq_v", '"no"', "attention_k_eq_v is 'no'; it takes true"),
        ("vision_config", "patch_size", "[16]", "vision_config.patch_size is [16]"),
        (None, "audio_config", "true", "audio_config is True, not an object"),
        (None, "text_config", "null", "text_config is missing"),
        (None, "quantization_config", '{"config_groups": "x"}', "which rqchat cannot read"),
        (None, "x", 100_000 * "[", "cannot be read: it is nested too deep"),
        (None, "x", 5000 * "9", "it holds a number with thousands of digits"),
    ],
)
def test_a_config_that_makes_no_sense(
    run: Run, copied_folder: Path, section: str | None, key: str, value: str, said: str
) -> None:
    config = json.loads(json.dumps(TINY_CONFIG))
    (config[section] if section else config)[key] = "@"
    path = copied_folder / "config.json"
    path.write_text(json.dumps(config).replace('"@"', value), encoding="utf-8")
    error = _one_line(run, "plan", "--model", str(copied_folder), "--vram", "24GiB")
    assert said in error


@pytest.mark.parametrize(
    ("file", "data", "said"),
    [
        ("model.safetensors.index.json", b'{"weight_map": ["a"]}', "has no weight_map that names"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../b"}}', "outside its folder"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "\\ud800"}}', "outside its fold"),
        ("model.safetensors", safetensors_bytes(HEADER % ("1e400", "64")), "no sound sizes"),
        ("model.safetensors", safetensors_bytes(HEADER % ("-2, -8", "64")), "no sound sizes"),
        ("model.safetensors", safetensors_bytes(HEADER % (2**63, 2**63)), "no sound sizes"),
        ("model.safetensors", safetensors_bytes(HEADER % ("16", "60")), "do not fit its shape"),
        ("model.safetensors", safetensors_bytes(1000 * '{"a":'), "cannot be read"),
        ("m.gguf", gguf_bytes(alignment=0), "its alignment is 0, not a power of two"),
        ("m.gguf", gguf_bytes(dimensions=(0, 2)), "do not fill its rows"),
        ("m.gguf", gguf_bytes(dimensions=(32, 2**63)), "is not whole"),
        ("m.gguf", gguf_bytes(tensors=2**63), "it claims 9,223,372,036,854,775,808 tensors"),
        ("m.gguf", gguf_bytes(field=NESTED), "it is nested too deep"),
    ],
)
def test_a_header_that_makes_no_sense(
    run: Run, copied_folder: Path, file: str, data: bytes, said: str
) -> None:
    (copied_folder / "model.safetensors").unlink()
    (copied_folder / file).write_bytes(data)
    command = ["plan"] if file != "model.safetensors" else ["ask", "Hi", "--no-log"]
    assert said in _one_line(run, *command, "--model", str(copied_folder))


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "X"}}', "the tokenizer of"),
        ("tokenizer.json", "[", "the tokenizer of"),
        ("tokenizer_config.json", 1000 * "[", "the tokenizer of"),
        ("preprocessor_config.json", '{"max_soft_tokens": "70"}', "the image processor"),
        ("generation_config.json", '{"eos_token_id": {"a": 1}}', "eos_token_id of generation_conf"),
        ("generation_config.json", '{"temperature": "hot"}', "temperature is 'hot'"),
        ("calibration.rq", "no such", "calibration"),
        ("chat_template.jinja", "{{ 1 / 0 }}", "conversation: ZeroDivisionError: division"),
        ("chat_template.jinja", "{% if", "its chat template cannot write this conversation"),
        ("chat_template.jinja", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "itself too of"),
        ("chat_template.jinja", "{{ 'x' * 10 ** 10 }}", "it takes more than 512 MiB"),
        (
            "chat_template.jinja",
            "{% for a in range(99999) %}{{ 99 * 'x' }}{% endfor %}",
            "4,194,30",
        ),
    ],
)
def test_a_small_file_that_makes_no_sense(
    run: Run, copied_folder: Path, file: str, text: str, said: str
) -> None:
    (copied_folder / file).write_text(text, encoding="utf-8")

    error = _one_line(run, "ask", "Hi", "--no-log", "--model", str(copied_folder))

    assert said in error


def test_a_template_that_never_ends_is_ended(run: Run, copied_folder: Path) -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (copied_folder / "chat_template.jinja").write_text(loop + TEMPLATE, encoding="utf-8")

    error = _one_line(run, "ask", "Hi", "--no-log", "--model", str(copied_folder))

    assert "it takes more than 3 seconds of processor time" in error
