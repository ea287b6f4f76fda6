"""Reading a prompt through the chunk kernels against the torch path, on whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache, calibrate, chunks
from rotorquant.ops import chunk, dispatch, rebuild
from tests.ops.kernels import Spy
from tests.rotorquant.models import (
    IMAGE_TOKEN,
    SMALL_WINDOW,
    gemma,
    gemma_with_images,
    picture,
    random_tokens,
)

pytest.importorskip("triton", reason="triton is not installed")

from rotorquant.ops.chunk import kernel  # noqa: E402
from rotorquant.ops.rebuild import kernel as rebuild_kernel  # noqa: E402

SIZES: dict[str, Any] = {"head_dim": 32, "global_head_dim": 64, "sliding_window": 40}


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spy]:
    """Prompts go through the kernels, long histories in more pieces than one."""
    spies = {"chunk": Spy(kernel.chunk_kernel), "rebuild": Spy(rebuild_kernel.rebuild_kernel)}
    monkeypatch.setattr(kernel, "chunk_kernel", spies["chunk"])
    monkeypatch.setattr(rebuild_kernel, "rebuild_kernel", spies["rebuild"])
    monkeypatch.setattr(chunk, "_kernel", kernel)
    monkeypatch.setattr(rebuild, "_kernel", rebuild_kernel)
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: True)
    # On a GPU these take tensor cores; the interpreter takes them as they are.
    monkeypatch.setattr(chunk, "KINDS", (torch.float32,))
    monkeypatch.setattr(chunks, "HISTORY_TOKENS", 33)
    monkeypatch.setattr(chunks, "ROWS_LIMIT", 64)
    return spies


def read(model: Any, cache: RotorQuantCache, inputs: list[dict[str, Any]]) -> torch.Tensor:
    """Logits of all chunks."""
    with torch.no_grad():
        return torch.cat([model(**each, past_key_values=cache).logits for each in inputs], dim=1)


def check(own: torch.Tensor, wanted: torch.Tensor, seen: torch.Tensor) -> None:
    """The kernels round what codes stand for to float16: 2^-11 of packed values, in one layer."""
    torch.testing.assert_close(own[seen], wanted[seen], atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("kind", "mode", "bits"),
    [
        ("tied", "aligned", 4),
        ("tied", "hadamard", 4),
        ("tied", "aligned", 16),
        ("calibrated", "aligned", 5),
        ("split", "haar", 4),
    ],
)
def test_a_prompt_in_chunks_reads_the_same(
    kind: str, mode: str, bits: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two rows, one padded on the left; the second and third chunk read packed history."""
    model = gemma(attention_k_eq_v=kind != "split", **SIZES)
    tokens = random_tokens(2, 190)
    mask = torch.ones(2, 190, dtype=torch.long)
    mask[1, :13] = 0
    options: dict[str, Any] = {"bits": bits, "mode": mode, **SMALL_WINDOW}
    if kind == "calibrated":
        calibrate(model, random_tokens(1, 600, seed=1), tmp_path / "own.rq")
        options["calibration"] = tmp_path / "own.rq"
    inputs = [
        {"input_ids": tokens[:, low:high], "attention_mask": mask[:, :high]}
        for low, high in ((0, 50), (50, 120), (120, 190))
    ]
    wanted = read(model, RotorQuantCache(model, **options), inputs)
    spies = request.getfixturevalue("_forced")
    cache = RotorQuantCache(model, **options)
    check(read(model, cache, inputs), wanted, mask.bool())
    # Five sliding layers; the global one reads 16 and 80 old tokens, in pieces of 33, before its
    # own.
    assert cache.packed_tokens == 80
    assert spies["chunk"].launches == 6 * 3 + (1 + 3)
    in_place = mode != "hadamard" and bits < 16
    streams = 2 if kind == "split" else 1
    assert spies["rebuild"].launches == (streams * (1 + 3) if in_place else 0)


def test_pictures_see_themselves_whole(request: pytest.FixtureRequest) -> None:
    model = gemma_with_images(**SIZES)
    tokens = random_tokens(1, 140)
    tokens[0, 70], tokens[0, 71:83], tokens[0, 83] = 9, IMAGE_TOKEN, 11
    types = torch.zeros_like(tokens)
    types[0, 71:83] = 1
    inputs = [
        {"input_ids": tokens[:, :60], "mm_token_type_ids": types},
        {"input_ids": tokens[:, 60:], "mm_token_type_ids": types, **picture()},
    ]
    wanted = read(model, RotorQuantCache(model, **SMALL_WINDOW), inputs)
    spies = request.getfixturevalue("_forced")
    own = read(model, RotorQuantCache(model, **SMALL_WINDOW), inputs)
    check(own, wanted, torch.ones_like(tokens, dtype=torch.bool))
    assert spies["chunk"].launches == 6 * 2 + 1
