"""Model files as strangers could make them, each through the code of rqchat that reads them."""

from __future__ import annotations

import atexit
import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from rqchat.engine.conversation import Message, UserTurn
from rqchat.engine.generation.chat_template import ChatTemplate
from rqchat.engine.generation.json_constraint import Constraints
from rqchat.engine.generation.json_schema import read_schema
from rqchat.engine.generation.prompt import PromptWriter
from rqchat.engine.loading.open_model import OpenedModel
from rqchat.engine.model_files.gguf.gguf_files import gguf_files as files_of
from rqchat.engine.model_files.gguf.gguf_precision import gguf_precision
from rqchat.engine.model_files.resolve import check_weights, resolve_model
from rqchat.engine.planning.devices import planned_card
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.engine.weights.files.safetensors_file import read_headers
from tests.engine.weights.loading import CPU, load, plan_for
from tests.helpers import TEMPLATE, TINY_CONFIG, build_tiny_model, byte_tokenizer

__all__ = ["SURFACES", "gguf_bytes", "safetensors_bytes", "spoiled_json", "try_one"]

# Texts of JSON values, some of which `json.dumps` would not write
_VALUES = (
    *("null", "true", "false", "0", "-1", "1", "3", "0.5", "1e400", "-1e400", "NaN", "1e308"),
    *(str(2**31), str(2**63), "1" + 400 * "0", 5000 * "9", '""', '"x"', '"8"', r'"\u0000"'),
    *(r'"\ud800"', "[]", "[[]]", "[1, 2]", "{}", '{"a": {}}', 1000 * "[" + 1000 * "]"),
    1000 * '{"a":',
)


def spoiled_json(random: Random, value: Any) -> str:
    """`value` as JSON, with something in it exchanged, left out or cut off."""
    places = list(_places(value))
    text = json.dumps(value)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        owner, key = random.choice(places)
        mark = f"@{random.getrandbits(60)}@"
        kept, owner[key] = owner[key], mark
        text = json.dumps(value).replace(f'"{mark}"', random.choice(_VALUES))
        owner[key] = kept
    chance = random.random()
    if chance < 0.05:
        return text[: random.randrange(len(text))]
    return text if chance < 0.95 else text.replace("{", "{,", 1)


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in items:
        yield value, key
        # pyrefly: ignore [implicit-any-type-argument]
        if isinstance(below, dict | list):
            yield from _places(below)


def _spoiled_bytes(random: Random, data: bytes) -> bytes:
    spoiled = bytearray(data)
    for _ in range(random.choice((1, 2, 8))):
        spoiled[random.randrange(len(spoiled))] = random.getrandbits(8)
    if random.random() < 0.2:
        del spoiled[random.randrange(len(spoiled)) :]
    return bytes(spoiled)


def safetensors_bytes(header: str) -> bytes:
    """A weight file with that header and 64 bytes of tensors."""
    data = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data + bytes(64)


def gguf_bytes(
    *,
    alignment: int = 32,
    tensors: int = 1,
    dimensions: tuple[int, ...] = (32, 2),
    kind: int = 2,
    field: bytes = b"",
) -> bytes:
    """A GGUF file with one tensor of the decoder, Q4_0 unless `kind` says otherwise."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, tensors, 2 if field else 1)
    header += text("general.alignment") + struct.pack("<II", 4, alignment) + field
    header += text("blk.0.attn_q.weight") + struct.pack("<I", len(dimensions))
    header += struct.pack(f"<{len(dimensions)}Q", *dimensions) + struct.pack("<IQ", kind, 0)
    return header.ljust(-(-len(header) // 32) * 32, b"\0") + bytes(4096)


def configs(random: Random, folder: Path) -> None:
    """A config.json, as far as a plan goes."""
    config = json.loads(json.dumps(TINY_CONFIG))
    config["text_config"] |= random.choice(
        (
            {},
            {"per_layer_config": {"5": {"head_dim": 32, "num_key_value_heads": 1}}},
            {"layer_types": ["full_attention"] * 6},
            {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2},
        )
    )
    config["quantization_config"] = random.choice((None, _quantization()))
    config["audio_config"] = random.choice((None, {"hidden_size": 64, "model_type": "x"}))
    _write(folder / "config.json", spoiled_json(random, config))
    (folder / "model.safetensors").write_bytes(safetensors_bytes("{}"))
    settings = Settings(model=str(folder), offline=True)
    source = resolve_model(settings, CPU)
    for gib in (1, 24):
        make_plan(source.shape, planned_card(gib * 2**30), settings, source.formats)


def _quantization() -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"weights": weights}},
    }


def weight_files(random: Random, folder: Path) -> None:
    """Headers of safetensors files, and their index."""
    tensor = {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}
    spoiled = spoiled_json(random, {"a": tensor, "__metadata__": {"format": "pt"}})
    data = safetensors_bytes(spoiled)
    (folder / "1.safetensors").write_bytes(data)
    data = data if random.random() < 0.5 else _spoiled_bytes(random, data)
    if random.random() < 0.5:
        (folder / "model.safetensors").write_bytes(data)
    else:
        index = {"metadata": {}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
        (folder / "2.safetensors").write_bytes(data)
        _write(folder / "model.safetensors.index.json", spoiled_json(random, index))
    check_weights(folder, "it")
    read_headers(folder, "it")


def gguf_files(random: Random, folder: Path) -> None:
    """Headers of GGUF files."""
    text = struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9)
    nested = text + 3000 * struct.pack("<IQ", 9, 1)
    many = text + struct.pack("<IQ", random.choice((8, 4)), random.choice((2**63, 2**32, 3)))
    rows = tuple(random.choice((1, 2, 2, 0, 2**63)) for _ in range(random.choice((1, 1, 1, 9))))
    data = gguf_bytes(
        alignment=random.choice((32, 32, 32, 64, 0, 3, 2**31)),
        tensors=random.choice((1, 1, 1, 1, 2, 2**63)),
        dimensions=(random.choice((256, 32, 0)), *rows),
        kind=random.choice((0, 1, 2, 2, 8, 8, 14, 30, 99)),
        field=random.choice((b"", b"", nested, many)),
    )
    data = data if random.random() < 0.7 else _spoiled_bytes(random, data[:200]) + data[200:]
    (folder / "model.gguf").write_bytes(data)
    gguf_precision(files_of(folder, "it"), "it")


def tokenizers(random: Random, folder: Path) -> None:
    """A tokenizer.json: its prompt, and a schema's words."""
    folder = _copied(folder)
    spoiled = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    _write(folder / "tokenizer.json", spoiled_json(random, spoiled))
    _open(folder)


def small_files(random: Random, folder: Path) -> None:
    """Every other JSON file of a model, through the loader to an answer of two tokens."""
    folder = _copied(folder)
    names = sorted(path.name for path in folder.glob("*.json") if path.name != "tokenizer.json")
    name = random.choice(names)
    _write(folder / name, spoiled_json(random, json.loads((folder / name).read_text())))
    session = _open(folder)
    answer = session.ask(UserTurn("Hello"), SamplingSettings(max_tokens=2, temperature=0.0))
    for _ in answer:
        pass


def calibrations(random: Random, folder: Path) -> None:
    """A calibration."""
    folder = _copied(folder)
    whole = Path(__file__).parents[2] / "rqchat" / "pocket" / "calibration.rq"
    (folder / whole.name).write_bytes(_spoiled_bytes(random, whole.read_bytes()[:4096]))
    _open(folder)


_STATEMENTS = (
    *("{{ 1 / 0 }}", "{{ 'x' * 10 ** 10 }}", "{{ messages[9].content }}", "{{ nothing.at.all }}"),
    *("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{% if"),
    *("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ raise_exception('no') }}"),
    *("{{ ''.__class__.__mro__ }}", "{{ '%0999999999d' | format(1) }}", "{{ 2 ** 10 ** 9 }}"),
    *("{% include 'x' %}", "{{ [1] | tojson(indent='x') }}", "{{ strftime_now(1) }}"),
    *(30 * "{% if true %}" + 30 * "{% endif %}", 5000 * "(", "{{ '\\ud800' }}", "{{ x() }}"),
    *("{% for a in range(99999) %}{{ 99 * 'x' }}{% endfor %}", "{{ lipsum(n=10 ** 6) }}"),
)


def templates(random: Random, folder: Path) -> None:
    """A chat template with a hostile statement somewhere."""
    tokenizer = byte_tokenizer()
    at = random.choice([0, *(i for i, c in enumerate(TEMPLATE) if c == "\n"), len(TEMPLATE)])
    statement = random.choice(_STATEMENTS)
    tokenizer.chat_template = TEMPLATE[:at] + statement + TEMPLATE[at:]
    if random.random() < 0.2:
        tokenizer.chat_template = random.choice(("", {"default": statement}, {"a": "b"}, None))
    writer = PromptWriter(tokenizer, None, 70, side_patches=0, template=ChatTemplate(tokenizer))
    writer.write([Message("user", "Hello")])


def schemas(random: Random, folder: Path) -> None:
    """A JSON schema, and the first tokens of an answer that matches it."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "a+"}, "b": {"enum": [1, "x"]}},
        "required": ["a"],
        "anyOf": [{"const": 3}, {"minLength": 2, "maxItems": 4}],
    }
    _write(folder / "schema.json", spoiled_json(random, schema))
    text = read_schema(str(folder / "schema.json"))
    constraint = _constraints().for_schema(text, thinking=False)

    for _ in range(3):
        allowed = constraint.mask(torch.zeros(TINY_CONFIG["text_config"]["vocab_size"]))
        constraint.accept(int(allowed.argmax()))
        if constraint.is_over:
            break


@cache
def _constraints() -> Constraints:
    return Constraints(byte_tokenizer(), [1], TINY_CONFIG["text_config"]["vocab_size"])


@cache
def _tiny() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="rqchat-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_tiny_model(folder)


def _copied(folder: Path) -> Path:
    return Path(shutil.copytree(_tiny(), folder / "model"))


def _open(folder: Path) -> ChatSession:
    return ChatSession(OpenedModel(load(folder), plan_for(folder, None), str(folder)))


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


SURFACES: tuple[Callable[[Random, Path], None], ...] = (
    *(configs, weight_files, gguf_files, tokenizers, small_files, calibrations),
    *(templates, schemas),
)
"""All of them."""


def try_one(made: Random, folder: Path) -> None:
    """One case of one of them."""
    made.choice(SURFACES)(made, folder)
