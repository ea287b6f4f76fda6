"""What the cache occupies: its own count, the arithmetic of `layout`, and what stays allocated."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rotorquant import RotorQuantCache
from rotorquant.layout import GlobalLayout, SlidingLayout, cache_bytes
from tests.rotorquant.models import SMALL_WINDOW, gemma, llama, random_tokens

KERNELS = Path(__file__).resolve().parents[3] / "kernels"


def filled(model: Any, tokens: int, **options: Any) -> RotorQuantCache:
    cache = RotorQuantCache(model, **{**SMALL_WINDOW, **options})
    with torch.no_grad():
        for part in random_tokens(1, tokens).split(64, dim=1):
            model(part, past_key_values=cache)
    return cache


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8, 16])
@pytest.mark.parametrize("sliding_bits", [8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nbytes_is_the_layout_arithmetic(bits: int, sliding_bits: int, dtype: torch.dtype) -> None:
    model = gemma(dtype)
    size = dtype.itemsize
    cache = filled(model, 300 + 1, bits=bits, sliding_bits=sliding_bits, max_tokens=400)
    layer = GlobalLayout(1, 32, tied=True, bits=bits, value_bytes=size, **SMALL_WINDOW)
    sliding = SlidingLayout(16, 2, 16, bits=sliding_bits, value_bytes=size)
    # 301 tokens end with a chunk of 45, which stays exact until the next one comes.
    with torch.no_grad():
        model(random_tokens(1, 1), past_key_values=cache)
    assert cache.nbytes == cache_bytes(layer, 1, sliding, 2, 400)


def test_keys_and_values_apart_take_twice_the_bytes() -> None:
    model = llama()
    cache = filled(model, 193, max_tokens=250)
    layer = GlobalLayout(2, 16, tied=False, bits=4, value_bytes=4, **SMALL_WINDOW)
    with torch.no_grad():
        model(random_tokens(1, 1), past_key_values=cache)
    assert cache.nbytes == cache_bytes(layer, 3, None, 0, 250)


def test_nothing_at_full_precision_stays_beside_the_packed_copy() -> None:
    """All live tensors that appeared with the cache, counted by their storages."""
    model, tokens = gemma(), random_tokens(1, 1500)

    def live() -> dict[int, int]:
        gc.collect()
        storages = (
            item.untyped_storage() for item in gc.get_objects() if type(item) is torch.Tensor
        )
        return {storage.data_ptr(): storage.nbytes() for storage in storages}

    before = live()
    cache = RotorQuantCache(model, bits=4, **SMALL_WINDOW)
    with torch.no_grad():
        for part in tokens.split(100, dim=1):
            model(part, past_key_values=cache)
        model(tokens[:, :1], past_key_values=cache)
    after = live()
    appeared = sum(size for place, size in after.items() if place not in before)
    # A head has 32 values: three maps of 32 x 32 that are learned, the rotation that they replace,
    # the squares of queries, a map of the rotary pairs; codebook, decode table and orders
    tables = 7 * 4096
    assert cache.nbytes <= appeared <= cache.nbytes + tables
    exact = 1501 * 32 * 4
    assert cache.packed_tokens * 18 < exact / 6


def test_storage_without_a_maximum_wastes_at_most_a_quarter_and_a_step() -> None:
    model = gemma()
    cache = filled(model, 3001)
    packed_bytes = 18  # 32 values of 4 bits, and a scale
    others = cache_bytes(
        GlobalLayout(1, 32, tied=True, value_bytes=4, **SMALL_WINDOW),
        1,
        SlidingLayout(16, 2, 16, value_bytes=4),
        2,
        32,
    )
    slack = cache.nbytes - others - cache.packed_tokens * packed_bytes - 3001 * 4
    chunk = 64 * 32 * 4
    assert 0 <= slack <= (3001 // 4 + 1024) * (packed_bytes + 4) + chunk


def test_reset_gives_the_memory_back() -> None:
    cache = filled(gemma(), 200)
    cache.reset()
    assert cache.nbytes == 0
    assert cache.get_seq_length() == 0


def test_the_arithmetic_needs_no_torch() -> None:
    code = (
        "import sys; from rotorquant.layout import head_vector_bytes; "
        "print(head_vector_bytes(512, 4), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env={"PYTHONPATH": str(KERNELS)}, capture_output=True, text=True
    )
    assert result.stdout == "258 False\n", result.stderr
