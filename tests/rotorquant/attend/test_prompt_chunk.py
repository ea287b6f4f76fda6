"""Reading a prompt through the chunk kernels against the torch path, on whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache, calibrate
from rotorquant.attend import prompt_chunk
from rotorquant.ops import chunk, dispatch, rebuild
from tests.rotorquant.models import (
    IMAGE_TOKEN,
    SMALL_WINDOW,
    gemma,
    gemma_with_images,
    picture,
    random_tokens,
)
from tests.rotorquant.ops.kernels import Spy

pytest.importorskip("triton", reason="triton is not installed")

from rotorquant.ops.chunk import kernel  # noqa: E402
from rotorquant.ops.rebuild import kernel as rebuild_kernel  # noqa: E402

SIZES: dict[str, Any] = {
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 40,
    "num_hidden_layers": 2,
}


class Switch:
    """Whether prompts go through the kernels now, and how often each was launched."""

    def __init__(self) -> None:
        self.on = False
        self.spies = {
            "chunk": Spy(kernel.chunk_kernel),
            "rebuild": Spy(rebuild_kernel.rebuild_kernel),
        }


@pytest.fixture
def _switch(monkeypatch: pytest.MonkeyPatch) -> Switch:
    """A switch to the kernels; long histories then come in more pieces than one."""
    switch = Switch()
    monkeypatch.setattr(kernel, "chunk_kernel", switch.spies["chunk"])
    monkeypatch.setattr(rebuild_kernel, "rebuild_kernel", switch.spies["rebuild"])
    monkeypatch.setattr(chunk, "_kernel", kernel)
    monkeypatch.setattr(rebuild, "_kernel", rebuild_kernel)
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: switch.on)
    # On a GPU these take tensor cores; the interpreter takes them as they are.
    monkeypatch.setattr(chunk, "KINDS", (torch.float32,))
    monkeypatch.setattr(prompt_chunk, "HISTORY_TOKENS", 33)
    monkeypatch.setattr(prompt_chunk, "ROWS_LIMIT", 64)
    return switch


@torch.no_grad()
def check(
    model: Any, cache: RotorQuantCache, inputs: list[dict[str, Any]], seen: torch.Tensor, by: Switch
) -> None:
    """Logits of every chunk, both ways over one cache: a code that flips would be no fault.

    The kernels round what codes stand for to float16: 2^-11 of packed values, in one layer.
    """
    read = 0
    for each in inputs:
        mark, logits = cache.mark(), []
        for by.on in (True, False):
            cache.rewind(mark)
            logits.append(model(**each, past_key_values=cache).logits)
        there = seen[:, read : read + logits[0].shape[1]]
        torch.testing.assert_close(logits[0][there], logits[1][there], atol=5e-3, rtol=0)
        read += logits[0].shape[1]


@pytest.mark.parametrize(
    ("kind", "mode", "bits"),
    [
        ("tied", "aligned", 4),
        ("tied", "aligned", 16),
        ("calibrated", "aligned", 5),
        ("split", "haar", 4),
    ],
)
def test_a_prompt_in_chunks_reads_the_same(
    kind: str, mode: str, bits: int, tmp_path: Path, _switch: Switch
) -> None:
    """Two rows, one padded on the left; the second and third chunk read packed history."""
    model = gemma(attention_k_eq_v=kind != "split", **SIZES)
    tokens = random_tokens(2, 190)
    mask = torch.ones(2, 190, dtype=torch.long)
    mask[1, :13] = 0
    options: dict[str, Any] = {"bits": bits, "mode": mode, "statistics": "none", **SMALL_WINDOW}
    if kind == "calibrated":
        calibrate(model, random_tokens(1, 600, seed=1), tmp_path / "own.rq")
        options["calibration"] = tmp_path / "own.rq"
    inputs = [
        {"input_ids": tokens[:, low:high], "attention_mask": mask[:, :high]}
        for low, high in ((0, 50), (50, 120), (120, 190))
    ]
    cache = RotorQuantCache(model, **options)
    check(model, cache, inputs, mask.bool(), _switch)
    # A sliding layer; the global one reads 16 and 80 old tokens, in pieces of 33, before its own.
    assert cache.packed_tokens == 80
    assert _switch.spies["chunk"].launches == 2 * 3 + (1 + 3)
    in_place = mode != "hadamard" and bits < 16
    streams = 2 if kind == "split" else 1
    assert _switch.spies["rebuild"].launches == (streams * (1 + 3) if in_place else 0)


def test_pictures_see_themselves_whole(_switch: Switch) -> None:
    model = gemma_with_images(**SIZES)
    tokens = random_tokens(1, 140)
    tokens[0, 70], tokens[0, 71:83], tokens[0, 83] = 9, IMAGE_TOKEN, 11
    types = torch.zeros_like(tokens)
    types[0, 71:83] = 1
    inputs = [
        {"input_ids": tokens[:, :60], "mm_token_type_ids": types},
        {"input_ids": tokens[:, 60:], "mm_token_type_ids": types, **picture()},
    ]
    cache = RotorQuantCache(model, statistics="none", **SMALL_WINDOW)
    check(model, cache, inputs, torch.ones_like(tokens, dtype=torch.bool), _switch)
    assert _switch.spies["chunk"].launches == 2 * 2 + 1
