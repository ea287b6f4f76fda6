"""Byte arithmetic against sizes worked out by hand. What a live cache occupies: `test_storage`."""

from __future__ import annotations

import pytest

from rotorquant.layout import GlobalLayout, SlidingLayout, cache_bytes, head_vector_bytes


@pytest.mark.parametrize(
    ("bits", "size"),
    # 512 values: bits * 64 bytes of codes and a scale of 2; 16 bits are 1,024 and no scale.
    [(2, 130), (3, 194), (4, 258), (5, 322), (6, 386), (8, 514), (16, 1024)],
)
def test_a_head_vector_of_gemma_4_31b(bits: int, size: int) -> None:
    assert head_vector_bytes(512, bits) == size


def test_a_tied_token_of_gemma_4_31b_at_4_bits() -> None:
    layer = GlobalLayout(heads=4, head_dim=512, tied=True, bits=4)
    assert layer.packed_token_bytes == 4 * 258
    assert layer.exact_token_bytes == 4 * 1024
    # An eighth of 81,920 bytes of K and V in bf16, scales within one per cent.
    assert 10 * layer.packed_token_bytes <= 10_240 * 1.01


def test_the_whole_context_of_gemma_4_31b_with_int8_windows() -> None:
    layer = GlobalLayout(heads=4, head_dim=512, tied=True, bits=4)
    sliding = SlidingLayout(window=1024, heads=16, head_dim=256, bits=8)
    total = cache_bytes(layer, 10, sliding, 50, 262_144)
    packed = (262_144 - 576) * 10_320
    exact = 640 * 40_960
    rings = 50 * 1024 * 2 * 16 * 258
    assert total == packed + exact + rings + 262_144 * 4
    assert total < 3.2e9


def test_the_ring_is_exactly_the_window() -> None:
    assert SlidingLayout(window=1024, heads=16, head_dim=256).total_bytes * 50 == 838_860_800


def test_short_contexts_pack_nothing() -> None:
    layer = GlobalLayout(heads=1, head_dim=64, value_bytes=4)
    assert layer.total_bytes(100) == layer.exact_bytes == 640 * 2 * 64 * 4
    assert layer.chunk_bytes(10) == 10 * 2 * 64 * 4
