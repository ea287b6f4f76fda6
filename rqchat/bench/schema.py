"""What `--schema` costs with a vocabulary of Gemma's size: `python -m rqchat.bench schema`.

The words are made up, as many and as long as Gemma 4's 262,144; how tokens are spelled (blanks as
`▁`, single bytes for what no word covers) is Gemma's way. A JSON text that matches is written token
by token, and each step is timed: the mask of what may come next, put onto float32 logits on the
CPU, and the step that follows the token.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from rqchat.engine.generation.json_constraint import Constraint, Constraints
from rqchat.engine.generation.json_schema import read_schema
from rqchat.engine.generation.text_stream import CHANNEL_END, CHANNEL_START

__all__ = ["VOCABULARY", "made_up_tokenizer", "main"]

VOCABULARY = 262_144
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<turn|>", CHANNEL_START, CHANNEL_END)
_ALPHABETS = (*["abcdefghijklmnopqrstuvwxyz"] * 8, "абвгдежзиклмнопрстуфхцчшыя")
_WIDE = (0x4E00, 0x9FA5)  # Han characters
_STRING = {"type": "string"}
_PERSON = {
    "type": "object",
    "properties": {
        "name": _STRING,
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "role": {"enum": ["owner", "tenant", "guest"]},
        "notes": {"type": "array", "items": _STRING, "maxItems": 5},
    },
    "required": ["name", "age", "role", "notes"],
    "additionalProperties": False,
}
_ANN = {"name": "Ann of the north gate", "age": 41, "role": "tenant", "notes": ["pays late", "a"]}
_CASES: dict[str, tuple[Any, Any]] = {
    "boolean": ({"type": "boolean"}, True),
    "string": (_STRING, " ".join(f"word{number}" for number in range(60))),
    "object": (_PERSON, _ANN),
    "list of 20 objects": ({"type": "array", "items": _PERSON}, [_ANN] * 20),
}


def made_up_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-fallback BPE tokenizer of `size` entries."""
    draw = random.Random(0)
    entries = dict.fromkeys([*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))])
    entries.update(dict.fromkeys(map(chr, [*range(33, 127), 0x2581])))
    entries.update(dict.fromkeys(['▁"', '":', '",', '"}', "},", "▁{", "▁[", '▁["', '"]', "]}"]))
    while len(entries) < size:
        if draw.random() < 0.1:
            word = chr(draw.randint(*_WIDE)) + chr(draw.randint(*_WIDE)) * draw.randint(0, 1)
        else:
            word = "".join(draw.choices(draw.choice(_ALPHABETS), k=draw.randint(2, 9)))
        entries["▁" * draw.randint(0, 1) + word] = None
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", bos_token="<bos>")


def main() -> None:
    """Times the layout of the vocabulary, each schema, and each step."""
    tokenizer: Any = made_up_tokenizer()
    stops = [tokenizer.convert_tokens_to_ids(token) for token in ("<eos>", "<turn|>")]
    constraints = Constraints(tokenizer, stops, VOCABULARY)
    begun_s = time.perf_counter()
    constraints.for_schema(read_schema('{"type": "boolean"}'), thinking=False)
    _say(f"{VOCABULARY:,} tokens laid out in {time.perf_counter() - begun_s:.2f} s, once a process")
    logits = torch.randn(VOCABULARY)
    for name, (schema, value) in _CASES.items():
        begun_s = time.perf_counter()
        constraint = constraints.for_schema(read_schema(json.dumps(schema)), thinking=False)
        compiled_s = time.perf_counter() - begun_s
        tokens = tokenizer.encode(json.dumps(value), add_special_tokens=False)
        masks_s, steps_s = _walk(constraint, tokens, logits)
        _say(
            f"{name}: compiled in {_ms(compiled_s)}; {len(tokens)} tokens, a mask takes"
            f" {_ms(statistics.median(masks_s))} (median), {_ms(max(masks_s))} (slowest), the step"
            f" after it {_ms(statistics.median(steps_s))}"
        )


def _walk(
    constraint: Constraint, tokens: list[int], logits: torch.Tensor
) -> tuple[list[float], list[float]]:
    """Seconds of each mask and of each step; every token has to be let through."""
    masks_s, steps_s = [], []
    for token in tokens:
        begun_s = time.perf_counter()
        masked = constraint.mask(logits)
        masks_s.append(time.perf_counter() - begun_s)
        assert masked[token].isfinite(), "the text does not match its schema"
        begun_s = time.perf_counter()
        constraint.accept(token)
        steps_s.append(time.perf_counter() - begun_s)
    return masks_s, steps_s


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
