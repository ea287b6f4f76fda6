"""Decoding on a CPU: E2B's shapes at 4, 8 and 16 bits, the pocket model against transformers.

One thread and its processor time, all in turn, the best of some rounds: other programs
on the machine then count little. Of E2B 12 layers of 35 are made, with random weights and the
whole head; its time for a token is that of the head and 35 / 12 times the rest.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

import rqchat
from rotorquant import RotorQuantCache
from rotorquant.cpu_layers import shorten_layers
from rqchat.bench.random_weights import RandomSource
from rqchat.engine.loading.open_model import make_cache, open_model
from rqchat.engine.planning.devices import cpu_device
from rqchat.engine.planning.known_models import known_models
from rqchat.engine.planning.plan import make_plan
from rqchat.engine.planning.shape import ModelShape
from rqchat.engine.settings import Settings
from rqchat.engine.weights.place import Recipe, place_weights
from rqchat.engine.weights.skeleton import build_skeleton
from rqchat.engine.weights.transfer import ByteStream

__all__ = ["main"]

_MODEL, _LAYERS, _BORROWING = "google/gemma-4-E2B-it", 12, 7  # of 35, 20 of which borrow K and V
_ROUNDS, _STEPS, _CHUNK_TOKENS = 5, 8, 512
_LENGTHS = 40, 8200  # tokens before the pocket model's steps


class _Calls(TorchDispatchMode):
    """Counts what reaches torch's dispatcher."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def main() -> None:
    """Measures and prints JSON."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    figures = {"pocket": [_pocket(length) for length in _LENGTHS], "E2B": _e2b()}
    sys.stdout.write(f"{json.dumps(figures, indent=1)}\n")


def _best(*things: Callable[[], object]) -> list[float]:
    """Seconds of processor time of things that take turns."""
    found: list[list[float]] = [[] for _ in things]
    for _ in range(_ROUNDS):
        for times, once in zip(found, things, strict=True):
            begun_s = time.process_time()
            once()
            times.append(time.process_time() - begun_s)
    return [min(times) for times in found]


def _read(model: Any, cache: Any, ids: torch.Tensor, mode: Callable[[], Any]) -> None:
    with mode():
        for piece in ids.split(_CHUNK_TOKENS, dim=1):
            model(input_ids=piece, past_key_values=cache, logits_to_keep=1)


def _pocket(length: int) -> dict[str, float]:
    """Steps behind `length` tokens, by our layers and cache and by `generate` of transformers."""
    opened = open_model(Settings(model="pocket", device="cpu"), lambda event: None)
    folder = Path(rqchat.__file__).parent / "pocket"
    plain: Any = transformers.Gemma4ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    own, theirs = make_cache(opened), transformers.DynamicCache(config=plain.config.text_config)
    ids = torch.randint(20, 4000, (1, length), generator=torch.Generator().manual_seed(1))
    _read(opened.loaded.model, own, ids, torch.inference_mode)
    _read(plain, theirs, ids, torch.no_grad)

    def ours() -> None:
        mark, token = own.mark(), ids[:, :1]
        with torch.inference_mode():
            for _ in range(_STEPS):
                output = opened.loaded.model(input_ids=token, past_key_values=own)
                token = output.logits[:, -1].argmax(-1, keepdim=True)
        own.rewind(mark)

    def generate() -> None:
        limits = {"max_new_tokens": _STEPS, "min_new_tokens": _STEPS, "do_sample": False}
        # It takes what the cache lacks of it, and the cache keeps what it wrote before
        more = theirs.get_seq_length() + 1 - length
        given = torch.cat((ids, ids[:, :1].expand(1, more)), dim=1)
        plain.generate(input_ids=given, past_key_values=theirs, **limits)

    for warm in (ours, generate):
        warm()
    with _Calls() as calls:  # type: ignore[no-untyped-call]
        ours()
    found = _best(ours, generate)
    return {
        "tokens before": length,
        "calls a token": calls.count / _STEPS,
        "tokens per CPU second": _STEPS / found[0],
        "transformers' generate": _STEPS / found[1],
    }


def _e2b() -> dict[str, dict[str, float]]:
    config = next(model.config for model in known_models() if model.name == _MODEL)
    models = {weights: _random(config, weights) for weights in ("int4", "int8", "bf16")}
    steps = [
        partial(_read, m, RotorQuantCache(m, bits=4), torch.tensor([[7]]), torch.inference_mode)
        for m in models.values()
    ]
    hidden = torch.randn(1, 1, config["text_config"]["hidden_size"]).bfloat16()
    heads = [partial(model.lm_head, hidden) for model in models.values()]
    for warm in (*steps, *heads):
        warm()
    step, head = _best(*steps), _best(*heads)
    share = config["text_config"]["num_hidden_layers"] / _LAYERS
    whole = [one + share * (all_ - one) for one, all_ in zip(head, step, strict=True)]
    device, shape = cpu_device(), ModelShape.from_config(config)
    totals = [
        make_plan(shape, device, Settings(weights=weights)).chosen.bytes.weights
        for weights in models
    ]
    return {
        name: {"ms": 1e3 * s, "times bf16": whole[-1] / s, "GB": b / 1e9, "of bf16": b / totals[-1]}
        for name, s, b in zip(models, whole, totals, strict=True)
    }


def _random(config: Mapping[str, Any], weights: str) -> Any:
    """Some layers and the head of `config`; of the per-layer embeddings, a few rows."""
    own = deepcopy(dict(config))
    own |= {"vision_config": None, "audio_config": None}
    text = own["text_config"]
    text |= {"num_hidden_layers": _LAYERS, "num_kv_shared_layers": _BORROWING}
    text |= {"layer_types": text["layer_types"][:_LAYERS], "vocab_size_per_layer_input": 4096}
    model = build_skeleton(own, torch.bfloat16, torch.device("cpu"))
    recipe = Recipe(_MODEL, weights, 16 if weights == "bf16" else 8, 2**40)
    source = RandomSource(own, packed=weights == "int4")
    with ByteStream(torch.device("cpu")) as stream:
        place_weights(model, source, recipe, stream, lambda done, total: None, lambda: None)
    shorten_layers(model)
    return model


if __name__ == "__main__":
    main()
