"""Kernels that ask for more shared memory than a card has are not launched there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rotorquant.ops import attend, chunk, decode, dispatch
from rotorquant.ops.chunk.launch import launch_config
from rqchat.engine.weights.kernels import multiply

_CARDS = {
    "sm_75": ({"shared_memory_per_block_optin": 65_536, "shared_memory_per_block": 49_152}, False),
    "gfx942, gfx1100": ({"shared_memory_per_block": 65_536}, False),
    "sm_86": ({"shared_memory_per_block_optin": 101_376}, True),
}


class _OnCard:
    """A tensor that says that it lies on a card."""

    is_cuda = True
    dtype, device, shape = torch.bfloat16, torch.device("cuda", 0), (1, 4, 1, 64)


@pytest.mark.parametrize("card", _CARDS)
def test_a_kernel_is_taken_where_its_shared_memory_is(
    monkeypatch: pytest.MonkeyPatch, card: str
) -> None:
    fields, enough = _CARDS[card]
    dispatch.shared_bytes_of.cache_clear()
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**fields)
    )
    monkeypatch.setattr(dispatch, "on_gpu", lambda tensor: tensor.is_cuda)
    for op in (chunk, decode):
        monkeypatch.setattr(op, "_kernel", object())
    query: Any = _OnCard()

    rows: Any = SimpleNamespace(scale=None)
    assert attend._fits(query, rows, None, None, None) is enough
    assert chunk.has_kernel(query, query) is enough
    assert decode.serves(query, 0) is enough
    assert multiply._has_room(query) is enough
    dispatch.shared_bytes_of.cache_clear()


def test_gfx942_is_no_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    tensor: Any = _OnCard()
    hopper = launch_config(256, dispatch.capability_of(tensor))
    monkeypatch.setattr(torch.version, "hip", "6.4")

    assert launch_config(256, dispatch.capability_of(tensor)) != hopper
    assert dispatch.capability_of(tensor) == (-9, 4)
