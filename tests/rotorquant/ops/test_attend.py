"""The attend ops against softmax over a full matrix of scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rotorquant.codec.codebook import lloyd_max
from rotorquant.ops.attend import Part, Rope, Rows, attend_exact, attend_packed, merge, reference
from rotorquant.ops.dequantize import decode_table, dequantize
from rotorquant.ops.planes import PACKED_BITS, planes_of
from rotorquant.ops.quantize import quantize
from tests.rotorquant.ops.kernels import book_of

# Float32 sums over at most some hundred keys, in another order.
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(params=["one tile", "many tiles"])
def _tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(reference, "TILE_KEYS", 7)
        monkeypatch.setattr(reference, "QUERY_STEP", 5)
        monkeypatch.setattr(reference, "SCORE_BUDGET", 200)


def full_softmax(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """[B, H, G, T, D] by the formula, in float64; `seen` broadcasts to [B, H, G, T, N]."""
    scores = query.double() @ key.double().unsqueeze(2).mT
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights @ value.double().unsqueeze(2)).float()


def rule(
    length: int, keys: int, window: int | None, blocks: torch.Tensor | None, batch: int
) -> torch.Tensor:
    """Who sees whom, pair by pair: [B, 1, 1, T, N]."""
    seen = torch.zeros(batch, 1, 1, length, keys, dtype=torch.bool)
    for row in range(batch):
        for t in range(length):
            at = keys - length + t
            for j in range(keys):
                block = blocks is not None and bool(blocks[row, j] == blocks[row, at] >= 0)
                seen[row, 0, 0, t, j] = (j <= at or block) and (window is None or j > at - window)
    return seen


@pytest.mark.usefixtures("_tiling")
@pytest.mark.parametrize("window", [None, 1, 6, 100])
@pytest.mark.parametrize("past", [0, 11])
@pytest.mark.parametrize("kind", ["text", "padding", "pictures"])
def test_exact_attention_is_the_full_softmax(window: int | None, past: int, kind: str) -> None:
    torch.manual_seed(0)
    batch, heads, group, length, head_dim = 2, 2, 3, 19, 8
    keys = past + length
    query = torch.randn(batch, heads, group, length, head_dim)
    key, value = torch.randn(2, batch, heads, keys, head_dim)
    blocks = mask = None
    if kind == "pictures":
        blocks = torch.full((batch, keys), -1)
        blocks[0, past + 2 : past + 9] = 0
        blocks[1, past : past + 4] = 0
        blocks[1, past + 5 : past + 19] = 1
    seen = rule(length, keys, window, blocks, batch)
    if kind == "padding":
        mask = torch.ones(batch, keys, dtype=torch.bool)
        mask[0, :3] = False
        seen = seen & mask[:, None, None, None, :]
    output = merge([attend_exact(query, key, value, past, window, mask, blocks)])
    expected = full_softmax(query, key, value, seen)
    blind = ~seen.any(-1, keepdim=True).expand(*query.shape[:-1], 1)
    expected = expected.masked_fill(blind, 0.0)
    torch.testing.assert_close(output, expected, **CLOSE)


@pytest.mark.parametrize("length", [1, 64, 65, 257])
@pytest.mark.parametrize("window", [None, 6])
def test_a_last_step_of_one_query_is_served(length: int, window: int | None) -> None:
    """Steps are 64 or 256 queries; a step of one query must not be written onto itself."""
    torch.manual_seed(0)
    query = torch.randn(1, 2, 2, length, 8)
    key, value = torch.randn(2, 1, 2, length, 8)
    at_query, at_key = torch.arange(length)[:, None], torch.arange(length)
    seen = at_key <= at_query
    if window is not None:
        seen = seen & (at_key > at_query - window)
    output = merge([attend_exact(query, key, value, 0, window)])
    torch.testing.assert_close(output, full_softmax(query, key, value, seen), **CLOSE)


@pytest.mark.usefixtures("_tiling")
@pytest.mark.parametrize("bits", PACKED_BITS)
@pytest.mark.parametrize("padded", [False, True])
def test_packed_attention_is_the_softmax_over_the_decoded_rows(bits: int, padded: bool) -> None:
    torch.manual_seed(1)
    centroids = torch.tensor(lloyd_max(bits), dtype=torch.float32)
    keys = [quantize(torch.randn(2, 2, 23, 16), book_of(bits)) for _ in range(2)]
    key, value = (dequantize(*rows, centroids, bits) for rows in keys)
    query = torch.randn(2, 2, 9, 16)
    order = torch.tensor(planes_of(bits).storage_order(16))
    mask = torch.ones(2, 23, dtype=torch.bool)
    mask[1, :5] = not padded
    part = attend_packed(
        query[..., order],
        Rows(*keys[0]),
        Rows(*keys[1]),
        decode_table(centroids, bits),
        key_mask=mask if padded else None,
    )
    expected = full_softmax(query.unsqueeze(2), key, value, mask[:, None, None, None, :])
    torch.testing.assert_close(merge([part])[..., order.argsort()], expected.squeeze(2), **CLOSE)


@pytest.mark.usefixtures("_tiling")
def test_the_rotary_part_scores_rows_that_were_stored_before_it() -> None:
    torch.manual_seed(2)
    head_dim, pairs = 16, 3
    rows = torch.randn(1, 2, 23, head_dim)
    query = torch.randn(1, 2, 9, head_dim)
    positions = torch.arange(100, 123)[None]
    frequencies = torch.tensor([1.0, 0.3, 0.07])
    one, two = torch.arange(pairs), torch.arange(pairs) + head_dim // 2
    angles = positions.float()[0, :, None] * frequencies
    key = rows.clone()
    key[..., one] = rows[..., one] * angles.cos() - rows[..., two] * angles.sin()
    key[..., two] = rows[..., two] * angles.cos() + rows[..., one] * angles.sin()
    turned = torch.cat((query[..., one], query[..., two], query[..., two], -query[..., one]), -1)
    plain = query.clone()
    plain[..., one] = plain[..., two] = 0.0
    rope = Rope(turned, one, two, positions, frequencies, torch.float32)
    part = attend_packed(plain, Rows(rows, None, None), None, None, rope)
    everything = torch.ones(1, 1, 1, 1, 23, dtype=torch.bool)
    expected = full_softmax(query.unsqueeze(2), key, rows, everything)
    torch.testing.assert_close(merge([part]), expected.squeeze(2), **CLOSE)


def test_parts_over_disjoint_keys_merge_into_one_softmax() -> None:
    torch.manual_seed(3)
    query = torch.randn(1, 2, 2, 1, 8) * 4
    key, value = torch.randn(2, 1, 2, 30, 8)
    parts = []
    for low, high in ((0, 4), (4, 29), (29, 30)):
        keys = slice(low, high)
        parts.append(attend_exact(query, key[:, :, keys], value[:, :, keys], high - low - 1))
    whole = attend_exact(query, key, value, 29)
    torch.testing.assert_close(merge(parts), merge([whole]), **CLOSE)


def test_a_part_without_any_key_adds_nothing() -> None:
    query = torch.randn(1, 1, 1, 2, 8)
    key = torch.randn(1, 1, 2, 8)
    blind = attend_exact(query, key, key, 0, key_mask=torch.zeros(1, 2, dtype=torch.bool))
    seeing = attend_exact(query, key, key, 0)
    torch.testing.assert_close(merge([blind, seeing]), merge([seeing]), **CLOSE)
    assert torch.equal(merge([blind]), torch.zeros(1, 1, 1, 2, 8))


class _LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.values = max(self.values, result.numel())
        return result


@pytest.mark.parametrize("window", [None, 32])
def test_no_tensor_grows_with_queries_times_keys(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SCORE_BUDGET", 2**14)
    monkeypatch.setattr(reference, "TILE_KEYS", 256)
    length, head_dim = 1024, 8
    query = torch.randn(1, 1, 2, length, head_dim)
    key, value = torch.randn(2, 1, 1, length, head_dim)
    with _LargestTensor() as largest:
        part: Part = attend_exact(query, key, value, 0, window)
    assert part.total.shape == query.shape
    assert largest.values <= max(2**14, query.numel())


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    query, key = torch.randn(1, 2, 1, 3, 8), torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match="belong together"):
        attend_exact(query, key[:, :1], key[:, :1], 0)
    with pytest.raises(ValueError, match="exceed"):
        attend_exact(query, key, key, 3)
