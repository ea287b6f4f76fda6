"""The chunk op against the softmax over a full matrix, pair by pair."""

from __future__ import annotations

import pytest
import torch

from rotorquant.ops.attend import Part
from rotorquant.ops.chunk import Rules, chunk_output, chunk_part, reach_of
from tests.rotorquant.ops.test_attend import full_softmax, rule


@pytest.mark.parametrize("window", [None, 1, 6, 100])
@pytest.mark.parametrize("past", [0, 11])
@pytest.mark.parametrize("kind", ["text", "padding", "pictures"])
def test_a_chunk_is_the_full_softmax(window: int | None, past: int, kind: str) -> None:
    torch.manual_seed(0)
    batch, heads, group, length, head_dim = 2, 2, 3, 19, 8
    keys = past + length
    query = torch.randn(batch, heads * group, length, head_dim)
    key, value = torch.randn(2, batch, heads, keys, head_dim)
    blocks = mask = None
    if kind == "pictures":
        blocks = torch.full((batch, keys), -1)
        blocks[0, past + 3 : past + 9], blocks[0, past + 9 :] = 0, 1
    if kind == "padding":
        mask = torch.ones(batch, keys, dtype=torch.bool)
        mask[1, : past + 2] = False
    seen = rule(length, keys, window, blocks, batch)
    if mask is not None:
        seen = seen & mask[:, None, None, None]
    reach = None if blocks is None else reach_of(blocks, past)
    own = chunk_output(query, key, value, 0.5, Rules(past, window, reach, mask))
    wanted = full_softmax(0.5 * query.unflatten(1, (heads, group)), key, value, seen)
    # A query that sees padding alone is 0 by contract.
    wanted = wanted.nan_to_num(0.0).flatten(1, 2).transpose(1, 2)
    torch.testing.assert_close(own, wanted, atol=2e-5, rtol=2e-5)


def test_a_part_of_older_keys_is_taken_in() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 6, 8), *torch.randn(2, 1, 2, 20, 8)
    whole = chunk_output(query, key, value, 1.0, Rules(14))
    older = chunk_part(query, key[:, :, :9], value[:, :, :9], 1.0, Rules(9))
    own = chunk_output(query, key[:, :, 9:], value[:, :, 9:], 1.0, Rules(5), older)
    torch.testing.assert_close(own, whole, atol=2e-6, rtol=2e-6)


def test_a_picture_reaches_to_its_end() -> None:
    blocks = torch.tensor([[-1, 0, 0, 1, 1, -1, -1, 2]])
    assert reach_of(blocks, 1).tolist() == [[2, 2, 4, 4, 5, 6, 7]]


def test_what_does_not_belong_together_is_refused() -> None:
    query, key = torch.zeros(1, 4, 6, 8), torch.zeros(1, 2, 9, 8)
    part = Part(*(torch.zeros(1, 2, 2, 5, columns) for columns in (1, 1, 8)))
    for given in (
        (query, key[..., :4], key, Rules(3)),
        (query[:, :3], key, key, Rules(3)),
        (query, key, key, Rules(-1)),
        (query, key, key, Rules(3, window=0)),
        (query, key, key, Rules(3, reach=torch.zeros(1, 9))),
        (query, key, key, Rules(3, key_mask=torch.ones(1, 6, dtype=torch.bool))),
    ):
        with pytest.raises(ValueError, match=r"6|8|-1|0"):
            chunk_output(given[0], given[1], given[2], 1.0, given[3])
    with pytest.raises(ValueError, match="part"):
        chunk_output(query, key, key, 1.0, Rules(3), part)
