"""The pocket model as a GGUF file, in llama.cpp's own server and here: the same words.

Needs `pip install xllamacpp==2026.10.11549` (MIT, 34 MB, the server without a build); skipped
without it. With `-s` it prints what docs/benchmarks/fidelity.md says of it.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rqchat.engine.conversation import UserTurn
from rqchat.engine.events import TextDelta
from rqchat.engine.loading.open_model import open_model
from rqchat.engine.session import ChatSession
from rqchat.engine.settings import SamplingSettings, Settings
from rqchat.pocket.training.architecture import model_folder
from tests.engine.weights.gguf_models import write_gguf_folder

xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")

_GREEDY, _MOST_TOKENS = {"temperature": 0.0}, 48
QUESTIONS = (
    "What is the capital of France?",
    "The meeting is on Friday at noon in room 12. When is the meeting?",
    "Tell me about the sea.",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pocket")
    write_gguf_folder(model_folder(), folder, "F32")
    return folder / "tiny.gguf"


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[str]:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.mmproj.path = str(file.with_name("mmproj-tiny.gguf"))
    params.n_ctx, params.n_parallel = 2048, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = False
    running = xllamacpp.Server(params)
    yield running.listening_address
    del running


def _ask(address: str, path: str, **body: Any) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_it_answers_as_llama_cpp_does(server: str, file: Path) -> None:
    opened = open_model(Settings(model=str(file), kv_bits=16, device="cpu"), lambda event: None)
    session, model = ChatSession(opened), opened.loaded.model
    tokenizer = opened.loaded.tokenizer.backend_tokenizer
    found: list[float] = []
    for question in QUESTIONS:
        session.clear()
        sampling = SamplingSettings(temperature=0.0, max_tokens=_MOST_TOKENS)
        events = session.ask(UserTurn(question), sampling)
        ours = "".join(event.text for event in events if isinstance(event, TextDelta))
        asked = {"messages": [{"role": "user", "content": question}]}
        theirs = _ask(server, "/v1/chat/completions", **asked, **_GREEDY, max_tokens=_MOST_TOKENS)
        assert ours == theirs["choices"][0]["message"]["content"]

        prompt = _ask(server, "/apply-template", **asked)["prompt"]
        special = {"add_special": False, "parse_special": True}
        ids = _ask(server, "/tokenize", content=prompt, **special)["tokens"]
        assert ids == tokenizer.encode(prompt, add_special_tokens=False).ids
        found += _divergences(server, model, ids)
    sys.stdout.write(f"{len(found)} tokens, KL divergence {sum(found) / len(found):.3g}\n")
    assert sum(found) / len(found) < 1e-5


def _divergences(server: str, model: Any, ids: list[int]) -> list[float]:
    """Of each token of a greedy answer to the prompt `ids`, from the server's probabilities."""
    size = model.config.text_config.vocab_size
    asked = {"n_predict": _MOST_TOKENS, "n_probs": size, "cache_prompt": False}
    answer = _ask(server, "/completion", prompt=ids, **_GREEDY, **asked)
    places = answer["completion_probabilities"]
    whole = torch.tensor([ids + [place["id"] for place in places]])
    with torch.no_grad():
        logits = model(input_ids=whole).logits[0, len(ids) - 1 : -1]
    found = []
    for ours, place in zip(logits.float().log_softmax(-1), places, strict=True):
        theirs = torch.full((size,), -torch.inf)
        for entry in place["top_logprobs"]:
            theirs[entry["id"]] = entry["logprob"]
        known = theirs.isfinite()
        found.append(float((theirs.exp() * (theirs - ours))[known].sum()))
    return found
